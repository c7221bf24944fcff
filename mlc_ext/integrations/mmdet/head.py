"""What the heads share: settings, progress, the layout of predictions, and the ranking of detections."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from ...assignment import Assignment
from ...config import MLCConfig
from ...mutual_labeling import TaskTargets, mlc_losses, task_targets
from .._iou_layer import rescored_logits
from .._state import State

FIRST_LABEL = 0
"""MMDetection's labels count from 0."""

_LOSS_NAMES = {"iou_rescoring": "loss_iou", "prediction_alignment": "loss_alignment"}


class MLCHead:
    """Base of the heads, before MMDetection's own class.

    Args:
        mlc: fields of :class:`mlc_ext.MLCConfig`; None: the paper's of the detector.
        topk_by_product: whether the ``nms_pre`` best predictions of a level are chosen by score x IoU, as in the paper,
            or by the score alone, as MMDetection does. RPN: always by the product.

    Raises:
        ValueError: the classes are trained with a softmax.
    """

    detector = ""
    """The name for ``MLCConfig.paper``."""

    has_score_threshold = True
    """Whether ``score_thr`` of ``test_cfg`` is applied; MMDetection's RPN ignores it."""

    def __init__(
        self, *args: Any, mlc: dict[str, Any] | None = None, topk_by_product: bool = False, **kwargs: Any
    ) -> None:
        how = f"{type(self).__name__}: custom_hooks has no MLCEpochHook."
        self.state = State(MLCConfig.paper(self.detector, **(mlc or {})), how)
        self.topk_by_product = topk_by_product
        super().__init__(*args, **kwargs)
        if not self.use_sigmoid_cls:  # type: ignore[attr-defined]
            raise ValueError(f"{type(self).__name__}: loss_cls must have use_sigmoid=True")

    @property
    def active(self) -> bool:
        """Whether the losses differ from MMDetection's own."""
        return self.state.mutual or self.state.rescoring or self.state.config.alignment > 0

    def targets(
        self, assignment: Assignment, logits: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_labels: Tensor
    ) -> TaskTargets:
        """:func:`mlc_ext.task_targets` of the batch at the current epoch."""
        state = self.state
        return task_targets(
            assignment, logits, boxes, gt_boxes, gt_labels, state.config, mutual=state.mutual, first_label=FIRST_LABEL
        )

    def cls_targets(self, task: TaskTargets) -> Tensor:
        """[N] int64 labels as MMDetection's losses take them: the class, or ``num_classes`` for the background."""
        return torch.where(task.cls_labels > 0, task.cls_labels - 1, self.num_classes)  # type: ignore[attr-defined]

    def added_losses(self, task: TaskTargets, iou_logits: Tensor | None) -> dict[str, Tensor]:
        state = self.state
        losses = mlc_losses(task, iou_logits, state.config, rescoring=state.rescoring)
        return {_LOSS_NAMES[name]: loss for name, loss in losses.items()}

    def predict_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        score_factors: list[Tensor] | None = None,
        batch_img_metas: list[dict[str, Any]] | None = None,
        cfg: Any = None,
        *rest: Any,
        **named: Any,
    ) -> Any:
        """MMDetection's detections, ranked by the product of score and quality.

        Args:
            cls_scores: [B, A * C, H, W] logits of each level.
            bbox_preds: [B, A * 4, H, W] of each level.
            score_factors: [B, A, H, W] logits of each level.
            batch_img_metas, cfg, rest, named: as in MMDetection.
        """
        if score_factors is not None:
            score_factors = self.factors(score_factors)
            if self.topk_by_product:
                cfg = copy.deepcopy(self.test_cfg if cfg is None else cfg)  # type: ignore[attr-defined]
                threshold = cfg.get("score_thr", 0) if self.has_score_threshold else -torch.inf
                cls_scores = [_product(*level, threshold) for level in zip(cls_scores, score_factors, strict=True)]
                score_factors, cfg["score_thr"] = None, 0
        own = super().predict_by_feat  # type: ignore[misc]
        return own(cls_scores, bbox_preds, score_factors, batch_img_metas, cfg, *rest, **named)

    def factors(self, score_factors: list[Tensor]) -> list[Tensor]:
        """The logits that rank detections, from those of the quality layer."""
        return score_factors


def _product(cls_scores: Tensor, factors: Tensor, threshold: float) -> Tensor:
    """The logits of score x factor; -inf where the score is not above the threshold."""
    factors = factors.repeat_interleave(cls_scores.shape[1] // factors.shape[1], dim=1)
    products = rescored_logits(cls_scores, factors)
    return torch.where(cls_scores.float().sigmoid() > threshold, products, -torch.inf)


def flat(levels: Sequence[Tensor], size: int) -> Tensor:
    """[B, A * size, H, W] of each level -> [B * sum(H * W * A), size], the images one after another."""
    return torch.cat([x.permute(0, 2, 3, 1).reshape(len(x), -1, size) for x in levels], dim=1).flatten(0, 1)


def gts_of(batch_gt_instances: Sequence[Any]) -> tuple[list[Tensor], Tensor]:
    """Boxes [G, 4] of each image, at least float32, and the labels [K] int64 of the batch."""
    boxes = [get_box_tensor(instances.bboxes).float() for instances in batch_gt_instances]
    return boxes, torch.cat([instances.labels.long() for instances in batch_gt_instances])
