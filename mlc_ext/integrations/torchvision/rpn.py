"""The RPN of torchvision's Faster, Mask and Keypoint R-CNN. Its head gets one layer, ``iou_logits``.

torchvision's RPN cannot be hooked between its outputs and its losses; ``forward`` is reimplemented.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork

from ...losses import binary_cross_entropy_loss
from ...mutual_labeling import TaskTargets, mlc_losses, task_targets
from ...sampling import sample_tasks
from .._gradient import decoding
from .._iou_layer import IoULayer, rescored_logits
from .._state import State
from .common import FIRST_LABEL, Converted, assignment_of, become, flat_levels, ignored_are_candidates, matched_of

_BOX_LOSS_BETA = 1 / 9  # torchvision's, of the smooth L1 loss


class RPNHeadMixin(Converted):
    """RPNHead with the IoU layer beside its box layer; the IoU's logits are a third list."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        towers = [self.conv(features) for features in x]
        objectness = [self.cls_logits(tower) for tower in towers]
        deltas = [self.bbox_pred(tower) for tower in towers]
        return objectness, deltas, [self.iou_logits(tower) for tower in towers]


class RPNMixin(Converted):
    """RegionProposalNetwork with mutual labeling."""

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The proposals of each image and, in training mode, the losses: ``loss_objectness``, ``loss_rpn_box_reg``."""
        levels = list(features.values())
        objectness, deltas = self.head(levels)
        return self._results(images, levels, targets, objectness, deltas, flat_levels(objectness, 1), None)

    def _results(
        self,
        images: ImageList,
        levels: list[Tensor],
        targets: list[dict[str, Tensor]] | None,
        objectness: list[Tensor],
        deltas: list[Tensor],
        ranked: Tensor,
        iou_logits: Tensor | None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """As :meth:`forward`, from the outputs of the head. torchvision's own choice of proposals is made by the logits
        ``ranked`` [B, A, 1]. iou_logits: [B, A, 1] or None."""
        anchors = self.anchor_generator(images, levels)
        flat_deltas = flat_levels(deltas, 4)
        sizes = [level[0].numel() for level in objectness]
        # half precision would round the boxes
        boxes = self.box_coder.decode(flat_deltas.flatten(0, 1).detach().float(), anchors)
        proposals, _ = self.filter_proposals(boxes.view(len(anchors), -1, 4), ranked, images.image_sizes, sizes)
        if not self.training:
            return proposals, {}
        return proposals, self._losses(targets, anchors, flat_levels(objectness, 1), flat_deltas, iou_logits)

    @torch.jit.unused
    def _losses(
        self,
        targets: list[dict[str, Tensor]] | None,
        anchors: list[Tensor],
        objectness: Tensor,
        deltas: Tensor,
        iou_logits: Tensor | None,
    ) -> dict[str, Tensor]:
        """The losses. objectness: [B, A, 1]; deltas: [B, A, 4]; iou_logits: [B, A, 1] or None."""
        if targets is None:
            raise ValueError("targets should not be None")
        state, config = self._mlc, self._mlc.config
        state.warn_without_epoch()
        if iou_logits is not None and state.rescoring:
            self.head.iou_logits.mark_trained()
        matched = matched_of(self.proposal_matcher, self.box_similarity, anchors, targets)
        assignment = assignment_of(matched, anchors, targets, with_ignored=ignored_are_candidates(state))
        gt_boxes = torch.cat([target["boxes"] for target in targets]).float()
        deltas, priors = deltas.flatten(0, 1).float(), torch.cat(anchors).float()
        with decoding(config):
            boxes = self.box_coder.decode_single(deltas, priors)
        objects = torch.full((len(gt_boxes),), FIRST_LABEL, dtype=torch.int64, device=gt_boxes.device)
        logits = objectness.flatten(0, 1)
        task = task_targets(
            assignment, logits, boxes, gt_boxes, objects, config, mutual=state.mutual, first_label=FIRST_LABEL
        )
        task, divisor = self._sampled(task, len(targets))
        drawn = (task.loc_weights > 0).nonzero().squeeze(1)
        encoded = self.box_coder.encode_single(task.matched_boxes[drawn], priors[drawn])
        box_losses = F.smooth_l1_loss(deltas[drawn], encoded, reduction="none", beta=_BOX_LOSS_BETA).sum(1)
        objectness_loss = binary_cross_entropy_loss(logits.squeeze(1), (task.cls_labels > 0).float(), task.cls_weights)
        losses = {
            "loss_objectness": objectness_loss / divisor,
            "loss_rpn_box_reg": (box_losses * task.loc_weights[drawn]).sum() / divisor,
        }
        flat_iou = None if iou_logits is None else iou_logits.flatten().float()
        added = mlc_losses(task, flat_iou, config, rescoring=state.rescoring)
        return losses | {f"loss_rpn_{name}": loss for name, loss in added.items()}

    def _sampled(self, task: TaskTargets, num_images: int) -> tuple[TaskTargets, Tensor]:
        """``task`` of the priors that are drawn: by the model's sampler, or for mutual labeling by the priors' weights,
        each task separately. Also the divisor of all losses, the size of the classification sample."""

        sampler = self.fg_bg_sampler
        if self._mlc.mutual:
            size = sampler.batch_size_per_image
            positive, negative, loc = sample_tasks(task, num_images, size, int(size * sampler.positive_fraction))
        else:
            masks = sampler(list(task.cls_labels.view(num_images, -1)))
            positive, negative = (torch.stack(mask).bool() for mask in masks)
            loc = positive
        divisor = (positive | negative).sum().clamp(min=1)
        return task.sampled(positive, negative, loc, divisor), divisor


class RescoringRPNMixin(RPNMixin):
    """The same with the IoU layer: proposals are ranked by objectness x IoU, once the layer has been trained."""

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """As :meth:`RPNMixin.forward`; the losses have ``loss_rpn_iou_rescoring`` too."""
        levels = list(features.values())
        objectness, deltas, ious = self.head(levels)
        iou_logits = flat_levels(ious, 1)
        ranked = rescored_logits(flat_levels(objectness, 1), self.head.iou_logits.ranking_logits(iou_logits))
        return self._results(images, levels, targets, objectness, deltas, ranked, iou_logits)


def convert(rpn: RegionProposalNetwork, state: State) -> None:
    if not isinstance(rpn.fg_bg_sampler, BalancedPositiveNegativeSampler):
        raise TypeError(
            "apply_mlc: rpn.fg_bg_sampler must be a BalancedPositiveNegativeSampler, "
            f"got {type(rpn.fg_bg_sampler).__name__}"
        )
    replaced = ["forward", "compute_loss", "assign_targets_to_anchors"]
    if state.config.iur:
        become(rpn.head, RPNHeadMixin, ["forward"])
        become(rpn, RescoringRPNMixin, replaced)
        rpn.head.iou_logits = IoULayer(rpn.head.bbox_pred)
    else:
        become(rpn, RPNMixin, replaced)
    rpn._mlc = state
