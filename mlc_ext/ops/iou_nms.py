"""iou_nms and its batched form: IoU-guided NMS, the paper's comparison. The rule and its contract: csrc/iou_nms.h."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import call, check_tensors, limit
from ._register import fake_of, without_gradient
from .rescored_nms import NmsResult, check_nms_tensors, fake_batched_result


def iou_nms(
    boxes: Tensor, scores: Tensor, quality: Tensor, labels: Tensor | None, iou_threshold: float
) -> tuple[Tensor, Tensor]:
    """IoU-guided NMS of one image: ranked by predicted IoU; a kept box takes the best class score of its cluster.

    Args:
        boxes: [N, 4] floating point xyxy.
        scores: [N] class scores, dtype of boxes. A score of -inf is padding and never kept.
        quality: [N] predicted IoU, the rank.
        labels: [N] int64; a cluster has boxes of one label. None: all have one label.
        iou_threshold: in [0, 1]; a box joins the first kept box whose IoU with it is above.

    Returns:
        keep: [n] int64 indices of the kept boxes, sorted by ``scores``; of equal scores the lower index first.
        scores: [n] the largest class score of each one's cluster.

    Raises:
        TypeError: a dtype is wrong. ValueError: shapes or devices disagree, threshold out of range, NaN (CPU only).

    Source: IoU-Net (Jiang et al. 2018), Algorithm 1; paper Table 2.
    """
    check_tensors("iou_nms", quality=quality)
    check_nms_tensors("iou_nms", boxes, scores, quality, labels)
    result: tuple[Tensor, Tensor] = call(
        torch.ops.mlc_ext.iou_nms, boxes.detach(), scores.detach(), quality.detach(), labels, iou_threshold
    )
    return result


def batched_iou_nms(
    boxes: Tensor,
    scores: Tensor,
    quality: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    *,
    score_threshold: float = float("-inf"),
    pre_nms_top_k: int | None = None,
    max_detections: int | None = None,
) -> NmsResult:
    """:func:`iou_nms` of a batch, with results of a fixed size and their counts.

    Args:
        boxes: [B, N, 4] floating point xyxy; images with fewer boxes are padded with scores of -inf.
        scores: [B, N]; quality: [B, N]; labels: [B, N] int64 or None. As in :func:`iou_nms`.
        iou_threshold: in [0, 1].
        score_threshold: candidates are boxes whose score is above it, strictly.
        pre_nms_top_k: the number of candidates per image that enter suppression, those of highest score; None for all.
        max_detections: the largest number of kept boxes per image; None for all.

    Returns:
        :class:`NmsResult`; its ``scores`` are the largest class scores of the clusters.

    Raises:
        As :func:`iou_nms`.

    Source: IoU-Net (Jiang et al. 2018), Algorithm 1; paper Table 2.
    """
    check_tensors("batched_iou_nms", quality=quality)
    check_nms_tensors("batched_iou_nms", boxes, scores, quality, labels)
    return NmsResult(
        *call(
            torch.ops.mlc_ext.batched_iou_nms,
            boxes.detach(),
            scores.detach(),
            quality.detach(),
            labels,
            iou_threshold,
            score_threshold,
            limit("batched_iou_nms", "pre_nms_top_k", pre_nms_top_k),
            limit("batched_iou_nms", "max_detections", max_detections),
        )
    )


@fake_of("iou_nms")
def _(
    boxes: Tensor, scores: Tensor, quality: Tensor, labels: Tensor | None, iou_threshold: float
) -> tuple[Tensor, Tensor]:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((kept,), dtype=torch.int64), scores.new_empty((kept,))


fake_of("batched_iou_nms")(fake_batched_result)
without_gradient("iou_nms", instead_of_vmap="call batched_iou_nms on the batch")
without_gradient("batched_iou_nms", instead_of_vmap="flatten the samples into its batch of images")
