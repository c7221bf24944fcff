"""What the heads of FCOS and RetinaNet share: torchvision's seam ``head.compute_loss``."""

import torch
from torch import Tensor

from ...assignment import Assignment
from ...mutual_labeling import TaskTargets, mlc_losses, task_targets
from .common import FIRST_LABEL, Converted, gradient_through_boxes, gts_of


class DenseHead(Converted):
    """A head whose losses are those of the targets in force: torchvision's own, or mutual labeling's."""

    @torch.jit.unused
    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """torchvision's losses and the method's ``iou_rescoring``.

        Args:
            targets: ``boxes`` [G, 4] xyxy and ``labels`` [G] of each image.
            head_outputs: of the head, [B, A, ...] each.
            anchors: [A, 4] of each image.
            matched_idxs: [A] of each image: the gt, -1 for background, -2 for ignored.

        Returns:
            A dict of scalars.
        """
        state = self._mlc
        state.warn_without_epoch()
        gt_boxes, gt_labels = gts_of(targets)
        logits = head_outputs["cls_logits"].flatten(0, 1)
        deltas = head_outputs["bbox_regression"].flatten(0, 1).float()  # half precision would round the boxes
        priors = torch.cat(anchors).float()
        with torch.set_grad_enabled(torch.is_grad_enabled() and gradient_through_boxes(state.config)):
            boxes = self._decode(deltas, priors)
        task = task_targets(
            self._assignment(matched_idxs, anchors, targets),
            logits,
            boxes,
            gt_boxes,
            gt_labels,
            state.config,
            mutual=state.mutual,
            first_label=FIRST_LABEL,
        )
        losses = self._losses(task, head_outputs, logits, deltas, priors, len(targets))
        iou_logits = self._iou_logits(head_outputs)
        return losses | mlc_losses(task, iou_logits, state.config, rescoring=state.rescoring)

    def _decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        raise NotImplementedError

    def _assignment(self, matched: list[Tensor], anchors: list[Tensor], targets: list[dict[str, Tensor]]) -> Assignment:
        raise NotImplementedError

    def _losses(
        self,
        task: TaskTargets,
        head_outputs: dict[str, Tensor],
        logits: Tensor,
        deltas: Tensor,
        priors: Tensor,
        num_images: int,
    ) -> dict[str, Tensor]:
        """The detector's own losses of the targets, normalized as torchvision does."""
        raise NotImplementedError

    def _iou_logits(self, head_outputs: dict[str, Tensor]) -> Tensor | None:
        """[B * A] logits of the predicted IoU, None without ``config.iur``."""
        raise NotImplementedError
