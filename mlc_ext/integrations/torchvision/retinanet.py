"""torchvision's RetinaNet, v1 and v2. ``head.regression_head`` gets one layer, ``iou_logits``."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection import RetinaNet
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from ...assignment import Assignment
from ...mutual_labeling import TaskTargets
from ...ops import sigmoid_focal_loss
from .._iou_layer import IoULayer
from .._state import State
from .common import Converted, assignment_of, become, flat_levels, ignored_are_candidates
from .dense import DenseHead, Outputs

_BOX_LOSSES = {"giou": generalized_box_iou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}


class RegressionHeadMixin(Converted):
    """RetinaNetRegressionHead with the IoU layer on its tower; it returns the deltas and the IoU's logits."""

    def forward(self, x: list[Tensor]) -> tuple[Tensor, Tensor]:
        towers = [self.conv(features) for features in x]
        deltas = flat_levels([self.bbox_reg(tower) for tower in towers], 4)
        return deltas, flat_levels([self.iou_logits(tower) for tower in towers], 1)


class HeadMixin(DenseHead):
    """RetinaNetHead with the losses of mutual labeling."""

    def _decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        boxes: Tensor = self.regression_head.box_coder.decode_single(deltas, priors)
        return boxes

    def _assignment(self, matched: list[Tensor], anchors: list[Tensor], targets: list[dict[str, Tensor]]) -> Assignment:
        return assignment_of(matched, anchors, targets, with_ignored=ignored_are_candidates(self._mlc))

    def _losses(self, task: TaskTargets, outputs: Outputs) -> dict[str, Tensor]:
        cls_weights = task.cls_weights / _divisors(task.cls_labels > 0, outputs.num_images)
        loc_weights = task.loc_weights / _divisors(task.loc_positive, outputs.num_images)
        positive = task.loc_positive.nonzero().squeeze(1)
        box_losses = self._box_losses(outputs.deltas[positive], outputs.priors[positive], task.matched_boxes[positive])
        return {
            "classification": sigmoid_focal_loss(outputs.logits, task.cls_labels, cls_weights),
            "bbox_regression": (box_losses * loc_weights[positive]).sum(),
        }

    def _box_losses(self, deltas: Tensor, priors: Tensor, gt_boxes: Tensor) -> Tensor:
        """[P] of the kind that the model was built with."""
        kind = self.regression_head._loss_type
        if kind in _BOX_LOSSES:
            losses: Tensor = _BOX_LOSSES[kind](self._decode(deltas, priors), gt_boxes, reduction="none")
            return losses
        encoded = self.regression_head.box_coder.encode_single(gt_boxes, priors)
        if kind == "l1":
            return F.l1_loss(deltas, encoded, reduction="none").sum(1)
        return F.smooth_l1_loss(deltas, encoded, reduction="none").sum(1)

    def _quality(self, head_outputs: dict[str, Tensor]) -> Tensor | None:
        return None


class RescoringHeadMixin(HeadMixin):
    """The same with the IoU layer."""

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        deltas, iou_logits = self.regression_head(x)
        return {"cls_logits": self.classification_head(x), "bbox_regression": deltas, "iou_logits": iou_logits}

    def _quality(self, head_outputs: dict[str, Tensor]) -> Tensor | None:
        if self._mlc.rescoring:
            self.regression_head.iou_logits.mark_trained()
        return head_outputs["iou_logits"].flatten().float()


class RetinaNetMixin(Converted):
    """RetinaNet that ranks detections by class score x predicted IoU, once the IoU layer has been trained."""

    def postprocess_detections(
        self,
        head_outputs: dict[str, list[Tensor]],
        anchors: list[list[Tensor]],
        image_shapes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Thresholds the class score and ranks by its product with the IoU, in each level's choice of candidates too.

        Args:
            head_outputs: [B, A, ...] of each level.
            anchors: [A, 4] of each level of each image.
            image_shapes: (height, width) of each image.

        Returns:
            ``boxes`` [D, 4], ``scores`` [D] (the products) and ``labels`` [D] of each image, best first.
        """
        boxes_of_levels: list[Tensor] = []
        scores_of_levels: list[Tensor] = []
        quality_of_levels: list[Tensor] = []
        labels_of_levels: list[Tensor] = []
        for level in range(len(anchors[0])):
            scores = head_outputs["cls_logits"][level].float().sigmoid()  # [B, A, C]
            iou_logits = head_outputs["iou_logits"][level]
            quality = self.head.regression_head.iou_logits.ranking_logits(iou_logits).sigmoid()  # [B, A, 1]
            rank = torch.where(scores > self.score_thresh, scores * quality, torch.full_like(scores, -1.0)).flatten(1)
            index = rank.topk(min(self.topk_candidates, rank.shape[1]), dim=1)[1]
            prior = torch.div(index, scores.shape[2], rounding_mode="floor")
            deltas = head_outputs["bbox_regression"][level].float()
            deltas = deltas.gather(1, prior.unsqueeze(2).expand(-1, -1, 4)).flatten(0, 1)
            boxes = self.box_coder.decode_single(deltas, anchors[0][level].float()[prior.flatten()])
            boxes_of_levels.append(boxes.view(prior.shape[0], prior.shape[1], 4))
            scores_of_levels.append(scores.flatten(1).gather(1, index))
            quality_of_levels.append(quality.squeeze(2).gather(1, prior))
            labels_of_levels.append(index % scores.shape[2])
        boxes = torch.cat(boxes_of_levels, dim=1)
        limit = torch.tensor([[w, h, w, h] for h, w in image_shapes], dtype=boxes.dtype, device=boxes.device)
        boxes = torch.minimum(boxes.clamp(min=0), limit.unsqueeze(1))
        labels = torch.cat(labels_of_levels, dim=1)
        # the operator itself, which TorchScript can call: mlc_ext.batched_rescored_nms
        keep, products, counts = torch.ops.mlc_ext.batched_rescored_nms(
            boxes,
            torch.cat(scores_of_levels, dim=1),
            torch.cat(quality_of_levels, dim=1),
            labels,
            float(self.nms_thresh),
            float(self.score_thresh),
            -1,
            self.detections_per_img,
        )
        detections: list[dict[str, Tensor]] = []
        for i in range(len(image_shapes)):
            n = int(counts[i])
            kept = keep[i, :n]
            detections.append({"boxes": boxes[i][kept], "scores": products[i, :n], "labels": labels[i][kept]})
        return detections


def _divisors(positive: Tensor, num_images: int) -> Tensor:
    """[B * A]: torchvision divides an image's loss by its own positives and the batch's by the number of images."""
    counts = positive.view(num_images, -1).sum(1).clamp(min=1).float() * num_images
    return counts.repeat_interleave(len(positive) // num_images)


def convert(model: RetinaNet, state: State) -> None:
    regression_head = model.head.regression_head
    if state.config.iur:
        become(regression_head, RegressionHeadMixin, ["forward", "compute_loss"])
        become(model, RetinaNetMixin, ["postprocess_detections"])
        become(model.head, RescoringHeadMixin, ["forward", "compute_loss"])
        regression_head.iou_logits = IoULayer(regression_head.bbox_reg)
    else:
        become(model.head, HeadMixin, ["compute_loss"])
    model.head._mlc = state
