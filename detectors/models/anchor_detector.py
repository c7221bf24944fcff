"""What RetinaNet and RPN share: anchors, and boxes regressed as deltas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mlc_ext import Assigner, TaskTargets, smooth_l1

from .anchors import AnchorGenerator
from .coders import DeltaXYWHCoder
from .dense_detector import DenseDetector


class AnchorDetector(DenseDetector):
    """A dense detector whose priors are anchors; a subclass adds its losses.

    Args:
        backbone, fpn, head, options: see :class:`DenseDetector`.
        anchors: of every level.
        assigner: of anchors to gts.
        mmdet1: the coder is MMDetection 1.1's (+1 widths).
        smooth_l1_beta: of the box loss on deltas; 0 is L1.
    """

    def __init__(
        self,
        backbone: nn.Module,
        fpn: nn.Module,
        head: nn.Module,
        *,
        anchors: AnchorGenerator,
        assigner: Assigner,
        mmdet1: bool,
        smooth_l1_beta: float,
        **options: Any,
    ) -> None:
        super().__init__(backbone, fpn, head, assigner=assigner, **options)
        self.anchors, self.coder = anchors, DeltaXYWHCoder(mmdet1=mmdet1)
        self.strides, self.smooth_l1_beta = anchors.strides, smooth_l1_beta

    def priors(self, feature_sizes: Sequence[tuple[int, int]], like: Tensor) -> list[Tensor]:
        return self.anchors(feature_sizes, device=like.device)

    def decode(self, outputs: dict[str, Tensor], priors: Tensor) -> Tensor:
        return self.coder.decode(priors, outputs["bbox_regression"])

    def box_loss(
        self, outputs: dict[str, Tensor], priors: Tensor, task: TaskTargets, weights: Tensor, num_images: int
    ) -> Tensor:
        """[] the sum of the weighted losses on deltas; ``weights`` [N] are those of the batch's priors."""
        deltas = self.coder.encode(priors.repeat(num_images, 1), task.matched_boxes)
        return smooth_l1(outputs["bbox_regression"].flatten(0, 1), deltas, weights, beta=self.smooth_l1_beta)
