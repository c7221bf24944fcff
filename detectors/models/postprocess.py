"""From head outputs to detections: threshold, rescoring, pre-NMS top-k per level, NMS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

import mlc_ext

from .coders import clip_boxes


class PaddedDetections(NamedTuple):
    """Detections of a batch in tensors of a fixed size; M = min(max_detections, candidates)."""

    boxes: Tensor
    """[N, M, 4] float32, xyxy pixels. Behind an image's last detection the values are arbitrary."""
    scores: Tensor
    """[N, M] float32, score x quality, best first, filled up with 0."""
    labels: Tensor
    """[N, M] int64 in 1..C. Behind an image's last detection the values are arbitrary."""
    counts: Tensor
    """[N] int64: detections of each image."""


@dataclass(frozen=True)
class Postprocessor:
    """Fixed shapes throughout, so no host synchronization until the results are cut to their counts.

    Args:
        score_threshold: on the raw class score, strictly above.
        pre_nms_top_k: (prior, class) pairs of a level that go on, by score x quality; None for all.
        iou_threshold: of the NMS, within a class.
        max_detections: of an image.
        min_size: boxes not wider and higher than this after clipping are dropped, in pixels.
        per_level: suppress within a level instead of within a class (RPN).
        nms: "rescored" ranks by score x quality; "iou" is IoU-Net's: ranked by quality alone, the product disabled,
            and a kept box takes the best class score of its cluster (the paper's comparison in Table 2). Without a
            quality, before the IoU layer's start, it is "rescored".

    Raises:
        ValueError: ``nms`` is neither.
    """

    score_threshold: float = 0.05
    pre_nms_top_k: int | None = 1000
    iou_threshold: float = 0.5
    max_detections: int = 100
    min_size: float = 0.0
    per_level: bool = False
    nms: str = "rescored"

    def __post_init__(self) -> None:
        if self.nms not in ("rescored", "iou"):
            raise ValueError(f"Postprocessor: nms must be 'rescored' or 'iou', got {self.nms!r}")

    def __call__(
        self,
        cls_logits: Tensor,
        boxes: Tensor,
        quality: Tensor | None,
        level_sizes: Sequence[int],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """
        Args:
            cls_logits: [N, HWA, C].
            boxes: [N, HWA, 4] decoded, xyxy pixels of the padded batch.
            quality: [N, HWA] predicted IoU (or centerness) in [0, 1], or None.
            level_sizes: priors of each level; they add up to HWA.
            image_sizes: (H, W) of each image; boxes are clipped to it.

        Returns:
            Per image a dict: ``boxes`` [n, 4], ``labels`` [n] int64 in 1..C, ``scores`` [n] (score x quality), best
            first.
        """
        boxes = torch.stack([clip_boxes(b, size) for b, size in zip(boxes, image_sizes, strict=True)])
        found = self.padded(cls_logits, boxes, quality, level_sizes)
        return [
            {"boxes": found.boxes[i, :n], "labels": found.labels[i, :n], "scores": found.scores[i, :n]}
            for i, n in enumerate(found.counts.tolist())
        ]

    def padded(
        self, cls_logits: Tensor, boxes: Tensor, quality: Tensor | None, level_sizes: Sequence[int]
    ) -> PaddedDetections:
        """The detections before they are cut to their counts; ``boxes`` are clipped already. Sizes may be symbolic."""
        columns: list[list[Tensor]] = []
        start = 0
        for size in level_sizes:
            level = slice(start, start + size)
            level_quality = None if quality is None else quality[:, level]
            columns.append(self._select(cls_logits[:, level], boxes[:, level], level_quality))
            start += size
        scores, picked_quality, labels, picked_boxes = (torch.cat(c, dim=1) for c in zip(*columns, strict=True))
        groups = labels
        if self.per_level:
            groups = torch.cat([torch.full_like(c[2], i) for i, c in enumerate(columns)], dim=1)
        large_enough = (picked_boxes[..., 2:] - picked_boxes[..., :2] > self.min_size).all(-1)
        by_iou = self.nms == "iou" and quality is not None
        suppress = mlc_ext.batched_iou_nms if by_iou else mlc_ext.batched_rescored_nms
        keep, kept_scores, counts = suppress(
            picked_boxes,
            torch.where(large_enough, scores, float("-inf")),
            picked_quality,
            groups,
            self.iou_threshold,
            score_threshold=self.score_threshold,
            max_detections=self.max_detections,
        )
        index = keep.clamp(min=0)
        kept_boxes = picked_boxes.gather(1, index[..., None].expand(-1, -1, 4))
        return PaddedDetections(kept_boxes, kept_scores, labels.gather(1, index), counts)

    def _select(self, logits: Tensor, boxes: Tensor, quality: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One level's best (prior, class) pairs: raw scores [N, k], quality [N, k], labels [N, k], boxes [N, k, 4]."""
        num_classes = logits.shape[2]
        scores = logits.float().sigmoid()
        product = scores if quality is None or self.nms == "iou" else scores * quality.float()[..., None]
        rank = torch.where(scores > self.score_threshold, product, -1.0).flatten(1)
        k = rank.shape[1] if self.pre_nms_top_k is None else torch.sym_min(self.pre_nms_top_k, rank.shape[1])
        picked = rank.topk(k, dim=1).indices
        prior = picked // num_classes
        picked_scores = scores.flatten(1).gather(1, picked)
        if quality is None:
            picked_quality = torch.ones_like(picked_scores)
        else:
            picked_quality = quality.float().gather(1, prior)
        picked_boxes = boxes.float().gather(1, prior[..., None].expand(-1, -1, 4))
        return picked_scores, picked_quality, picked % num_classes + 1, picked_boxes
