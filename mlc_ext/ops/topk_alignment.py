"""topk_alignment: the best priors of each gt by score and IoU. The rule and its contract: csrc/topk_alignment.h."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._errors import call, check_tensors
from ._register import fake_of, without_gradient


class TopkAlignment(NamedTuple):
    """The result of :func:`topk_alignment` for K gts."""

    metric: Tensor
    """[K, k] of the boxes' dtype, in descending order; 0 where a gt has fewer priors."""
    prior: Tensor
    """[K, k] int64: the prior, an index of the A priors of the gt's image; -1 where a gt has fewer."""


def topk_alignment(
    boxes: Tensor,
    gt_boxes: Tensor,
    gt_image: Tensor,
    k: int,
    *,
    logits: Tensor | None = None,
    columns: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 6.0,
) -> TopkAlignment:
    """The k priors of each gt with the largest sigmoid(logit)^alpha * IoU^beta, of equal ones the first.

    Priors whose metric is 0 or NaN are left out; boxes and gts with a NaN give unspecified values. The K x A matrix is
    never stored.

    Args:
        boxes: [B, A, 4] floating point xyxy, the predicted boxes of each image. Half types are computed in float32.
        gt_boxes: [K, 4] xyxy of the same dtype, of all images.
        gt_image: [K] int64, the image of each gt.
        k: priors of a gt, 1 to 65536.
        logits: [B, A, C] floating point, of any dtype. None: scores of 1, so that priors are ranked by their IoU.
        columns: [K] int64, the column of ``logits`` that is the gt's class; given with ``logits``.
        alpha: exponent of the score, in [0, 1e6].
        beta: exponent of the IoU, in (0, 1e6] and above 0 in the computed type.

    Returns:
        :class:`TopkAlignment` (metric, prior), without a gradient.

    Raises:
        TypeError: a dtype is wrong. ValueError: shapes or devices disagree, k, alpha or beta is out of range, or (CPU
        only) an entry of ``gt_image`` or ``columns`` is. On CUDA a gt with such an entry has no priors.

    Source: the alignment metric of TOOD (Feng et al. 2021, section 3.2).
    """
    check_tensors("topk_alignment", boxes=boxes, gt_boxes=gt_boxes, gt_image=gt_image)
    if logits is not None:
        check_tensors("topk_alignment", logits=logits)
        logits = logits.detach()
    return TopkAlignment(
        *call(
            torch.ops.mlc_ext.topk_alignment,
            boxes.detach(),
            gt_boxes.detach(),
            gt_image,
            logits,
            columns,
            k,
            alpha,
            beta,
        )
    )


@fake_of("topk_alignment")
def _(
    boxes: Tensor,
    gt_boxes: Tensor,
    gt_image: Tensor,
    logits: Tensor | None,
    columns: Tensor | None,
    k: int,
    *exponents: float,
) -> tuple[Tensor, Tensor]:
    shape = (gt_boxes.shape[0], k)
    return boxes.new_empty(shape), boxes.new_empty(shape, dtype=torch.int64)


without_gradient("topk_alignment", instead_of_vmap="it takes a batch of images; gt_image has the image of each gt")
