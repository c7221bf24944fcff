"""What the heads of FCOS and RetinaNet share: their losses, in ``head.compute_loss``."""

from typing import NamedTuple

import torch
from torch import Tensor

from ...assignment import Assignment
from ...mutual_labeling import TaskTargets, mlc_losses, task_targets
from .._gradient import decoding
from .common import FIRST_LABEL, Converted, gts_of


class Outputs(NamedTuple):
    """What a head predicts for the N = B * A priors of a batch."""

    logits: Tensor
    """[N, C]"""
    deltas: Tensor
    """[N, 4] float32."""
    priors: Tensor
    """[N, 4] float32."""
    quality: Tensor | None
    """[N], of :meth:`DenseHead._quality`."""
    num_images: int
    """B"""


class DenseHead(Converted):
    """A head whose losses are those of the current targets: torchvision's own, or mutual labeling's."""

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
        outputs = Outputs(
            logits=head_outputs["cls_logits"].flatten(0, 1),
            deltas=head_outputs["bbox_regression"].flatten(0, 1).float(),  # half precision would round the boxes
            priors=torch.cat(anchors).float(),
            quality=self._quality(head_outputs),
            num_images=len(targets),
        )
        with decoding(state.config):
            boxes = self._decode(outputs.deltas, outputs.priors)
        task = task_targets(
            self._assignment(matched_idxs, anchors, targets),
            outputs.logits,
            boxes,
            gt_boxes,
            gt_labels,
            state.config,
            mutual=state.mutual,
            first_label=FIRST_LABEL,
        )
        losses = self._losses(task, outputs)
        return losses | mlc_losses(task, outputs.quality, state.config, rescoring=state.rescoring)

    def _decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        raise NotImplementedError

    def _assignment(self, matched: list[Tensor], anchors: list[Tensor], targets: list[dict[str, Tensor]]) -> Assignment:
        raise NotImplementedError

    def _losses(self, task: TaskTargets, outputs: Outputs) -> dict[str, Tensor]:
        """The detector's own losses of the targets, normalized as torchvision does."""
        raise NotImplementedError

    def _quality(self, head_outputs: dict[str, Tensor]) -> Tensor | None:
        """[N] float32 logits of the layer that predicts the IoU; None without one."""
        raise NotImplementedError
