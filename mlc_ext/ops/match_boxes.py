"""match_boxes: max-IoU assignment of priors to gts, for a batch. The rule and its contract: csrc/match_boxes.h."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._errors import call, check_tensors
from ._register import float32_under_autocast, refuse_vmap


class MatchedBoxes(NamedTuple):
    """What :func:`match_boxes` finds for A priors in each of B images."""

    labels: Tensor
    """[B, A] int8: 1 positive, 0 negative, -1 ignored."""
    matched_gt: Tensor
    """[B, A] int64: the gt (among all K of the batch) whose candidate the prior is, -1 for none."""
    ious: Tensor
    """[B, A]: the prior's largest IoU with a gt of its image."""


def match_boxes(
    priors: Tensor,
    gt_boxes: Tensor,
    gt_offsets: Tensor,
    *,
    high: float,
    low: float,
    low_quality: bool = True,
    min_forced_iou: float = 0.0,
    crowd: Tensor | None = None,
    crowd_iof: float = 0.5,
) -> MatchedBoxes:
    """Assigns every prior of every image as Faster R-CNN and RetinaNet do, without ever storing the A x K matrix.

    A prior is positive if its best IoU is at least ``high`` or if a gt has no better prior (``low_quality``), negative
    if its best IoU is below ``low``, ignored between. ``matched_gt`` keeps the gt of the ignored too: they are
    candidates of mutual labeling.

    Args:
        priors: [A, 4] floating point xyxy, the same in every image.
        gt_boxes: [K, 4] xyxy of the same dtype, the images' one after another.
        gt_offsets: [B + 1] int64 on the same device: image b has gts gt_offsets[b] to gt_offsets[b + 1].
        high, low: IoU thresholds; RetinaNet 0.5 and 0.4, RPN 0.7 and 0.3.
        low_quality: whether every gt takes the priors of its best IoU, if that is above 0 and at least
            ``min_forced_iou`` (RetinaNet 0, RPN 0.3). Of several gts that force one prior the last has it.
        crowd: [K] bool or None; crowd gts match nothing, and a negative that lies on one with at least ``crowd_iof`` of
            its area is ignored.

    Returns:
        :class:`MatchedBoxes` (labels, matched_gt, ious).

    Raises:
        TypeError: a dtype is wrong. ValueError: shapes or devices disagree, a threshold is outside [0, 1], low > high,
        or (CPU only) gt_offsets do not rise from 0 to K.

    Source: MMDetection's MaxIoUAssigner, with its gts of no overlap matching nothing.
    """
    check_tensors("match_boxes", priors=priors, gt_boxes=gt_boxes, gt_offsets=gt_offsets)
    return MatchedBoxes(
        *call(
            torch.ops.mlc_ext.match_boxes,
            priors.detach(),
            gt_boxes.detach(),
            gt_offsets,
            crowd,
            high,
            low,
            low_quality,
            min_forced_iou,
            crowd_iof,
        )
    )


@torch.library.register_fake("mlc_ext::match_boxes")
def _(priors, gt_boxes, gt_offsets, crowd, high, low, low_quality, min_forced_iou, crowd_iof):
    shape = (gt_offsets.shape[0] - 1, priors.shape[0])
    return (
        priors.new_empty(shape, dtype=torch.int8),
        priors.new_empty(shape, dtype=torch.int64),
        priors.new_empty(shape),
    )


float32_under_autocast("match_boxes")
refuse_vmap("match_boxes", "it takes a batch of images: gt_offsets say which gts are whose")
