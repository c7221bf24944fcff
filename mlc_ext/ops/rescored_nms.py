"""rescored_nms and its batched form: NMS ranked by score x quality. The rule and its contract: csrc/rescored_nms.h."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._errors import call, check_tensors, limit
from ._register import fake_of, without_gradient


class NmsResult(NamedTuple):
    """Fixed-size result of :func:`batched_rescored_nms`; M = min(max_detections, N)."""

    keep: Tensor
    """[B, M] int64: indices into N, best first, filled up with -1."""
    scores: Tensor
    """[B, M]: score x quality of the kept boxes, filled up with 0."""
    counts: Tensor
    """[B] int64: the number of kept boxes."""


def check_nms_tensors(op: str, boxes: Tensor, scores: Tensor, quality: Tensor | None, labels: Tensor | None) -> None:
    """TypeError for an argument that is no tensor."""
    optional = {name: t for name, t in (("quality", quality), ("labels", labels)) if t is not None}
    check_tensors(op, boxes=boxes, scores=scores, **optional)


def rescored_nms(
    boxes: Tensor, scores: Tensor, quality: Tensor | None, labels: Tensor | None, iou_threshold: float
) -> Tensor:
    """Non-maximum suppression of one image's boxes, ranked by score x predicted quality.

    Args:
        boxes: [N, 4] floating point xyxy.
        scores: [N] class scores, dtype of boxes. A score of -inf is padding and never kept.
        quality: [N] predicted IoU or centerness in [0, 1], or None to rank by the score alone.
        labels: [N] int64; a box suppresses boxes of its own label only. None: all have one label. Coordinates are not
            shifted to separate the classes, which would round them.
        iou_threshold: in [0, 1]; a box is dropped iff its IoU with an earlier kept one is above it.

    Returns:
        [n] int64 indices of the kept boxes, best first; of equal products the lower index first. On CUDA the length n
        costs one synchronization; :func:`batched_rescored_nms` has none.

    Raises:
        TypeError: a dtype is wrong. ValueError: shapes or devices disagree, threshold out of range, NaN (CPU only).

    Source: paper section 3.2 (IoU rescoring at test).
    """
    check_nms_tensors("rescored_nms", boxes, scores, quality, labels)
    kept: Tensor = call(
        torch.ops.mlc_ext.rescored_nms,
        boxes.detach(),
        scores.detach(),
        None if quality is None else quality.detach(),
        labels,
        iou_threshold,
    )
    return kept


def batched_rescored_nms(
    boxes: Tensor,
    scores: Tensor,
    quality: Tensor | None,
    labels: Tensor | None,
    iou_threshold: float,
    *,
    score_threshold: float = float("-inf"),
    pre_nms_top_k: int | None = None,
    max_detections: int | None = None,
) -> NmsResult:
    """:func:`rescored_nms` of a batch, with results of a fixed size and their counts.

    Args:
        boxes: [B, N, 4] floating point xyxy; images with fewer boxes are padded with scores of -inf.
        scores: [B, N]; quality: [B, N] or None; labels: [B, N] int64 or None. As in :func:`rescored_nms`.
        iou_threshold: in [0, 1].
        score_threshold: candidates are boxes whose raw score (not the product) is above it, strictly.
        pre_nms_top_k: the number of candidates per image that enter suppression, those of highest score x quality;
            None for all.
        max_detections: the largest number of kept boxes per image; None for all.

    Returns:
        :class:`NmsResult` (keep, scores, counts).

    Raises:
        As :func:`rescored_nms`.
    """
    op = "batched_rescored_nms"
    check_nms_tensors(op, boxes, scores, quality, labels)
    return NmsResult(
        *call(
            torch.ops.mlc_ext.batched_rescored_nms,
            boxes.detach(),
            scores.detach(),
            None if quality is None else quality.detach(),
            labels,
            iou_threshold,
            score_threshold,
            limit(op, "pre_nms_top_k", pre_nms_top_k),
            limit(op, "max_detections", max_detections),
        )
    )


@fake_of("rescored_nms")
def _(boxes: Tensor, scores: Tensor, quality: Tensor | None, labels: Tensor | None, iou_threshold: float) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((kept,), dtype=torch.int64)


def fake_batched_result(boxes: Tensor, scores: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes of a batched NMS's results."""
    *_, max_detections = options
    batch, n = scores.shape
    if max_detections >= 0:
        n = torch.sym_min(n, max_detections)  # type: ignore[no-untyped-call]  # of torch
    keep = boxes.new_empty((batch, n), dtype=torch.int64)
    return keep, scores.new_empty((batch, n)), boxes.new_empty((batch,), dtype=torch.int64)


fake_of("batched_rescored_nms")(fake_batched_result)
without_gradient("rescored_nms", instead_of_vmap="call batched_rescored_nms on the batch")
without_gradient("batched_rescored_nms", instead_of_vmap="flatten the samples into its batch of images")
