"""torchvision's FCOS. No layer is added: the layer of centerness, ``bbox_ctrness``, is trained to predict the IoU.

Detections need no change: torchvision ranks by sqrt(class score x sigmoid(bbox_ctrness)).
"""

import torch
from torch import Tensor
from torchvision.models.detection import FCOS
from torchvision.ops import generalized_box_iou_loss

from ...assigners.fcos import smallest_containing
from ...assignment import Assignment
from ...losses import centerness_loss, centerness_target
from ...mutual_labeling import TaskTargets
from ...ops import sigmoid_focal_loss
from .._state import State
from .common import assignment_of, become
from .dense import DenseHead, Outputs


class FCOSHeadMixin(DenseHead):
    """FCOSHead with the losses of mutual labeling and IoU rescoring."""

    def _decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        boxes: Tensor = self.box_coder.decode(deltas, priors)
        return boxes

    def _assignment(self, matched: list[Tensor], anchors: list[Tensor], targets: list[dict[str, Tensor]]) -> Assignment:
        assignment = assignment_of(matched, anchors, targets, with_ignored=False)
        config = self._mlc.config
        if not self._mlc.mutual or config.fcos_candidates == "positives":
            return assignment
        centers = (anchors[0][:, :2] + anchors[0][:, 2:]).float() / 2
        found = [smallest_containing(centers, target["boxes"].to(centers.dtype)) for target in targets]
        inside = assignment_of(found, anchors, targets, with_ignored=False).candidate_gt
        positive = assignment.labels > 0
        candidate_gt = torch.where(positive, assignment.candidate_gt, inside)
        return Assignment(assignment.labels, candidate_gt, originally_ignored=(candidate_gt >= 0) & ~positive)

    def _losses(self, task: TaskTargets, outputs: Outputs) -> dict[str, Tensor]:
        num_loc = task.num_loc_positive.clamp(min=1)
        positive = task.loc_positive.nonzero().squeeze(1)
        priors, gt_boxes = outputs.priors[positive], task.matched_boxes[positive]
        boxes = self._decode(outputs.deltas[positive], priors)
        box_losses = generalized_box_iou_loss(boxes, gt_boxes, reduction="none") * task.loc_weights[positive]
        losses = {
            "classification": sigmoid_focal_loss(outputs.logits, task.cls_labels, task.cls_weights)
            / task.num_cls_positive.clamp(min=1),
            "bbox_regression": box_losses.sum() / num_loc,
        }
        if not self._mlc.rescoring and outputs.quality is not None:
            centerness = centerness_target(self.box_coder.encode(priors, gt_boxes))
            losses["bbox_ctrness"] = centerness_loss(outputs.quality[positive], centerness) / num_loc
        return losses

    def _quality(self, head_outputs: dict[str, Tensor]) -> Tensor | None:
        return head_outputs["bbox_ctrness"].flatten().float()


def convert(model: FCOS, state: State) -> None:
    become(model.head, FCOSHeadMixin, ["compute_loss"])
    model.head._mlc = state
