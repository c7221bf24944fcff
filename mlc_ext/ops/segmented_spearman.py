"""segmented_spearman: rank correlation per group of pairs. The rule and its contract: csrc/segmented_spearman.h."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import call, check_tensors
from ._register import SEGMENTS_INSTEAD, fake_of, without_gradient


def segmented_spearman(x: Tensor, y: Tensor, segment_ids: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    """Spearman's rank correlation of every group of pairs; equal values share the average of their ranks.

    The sums are computed in exact integer arithmetic: the result does not depend on the order of the pairs and has the
    same bits on CPU and CUDA.

    Args:
        x: [N] real numbers. Floating point; other types, and pairs of two types, are compared as float64.
        y: [N] the same.
        segment_ids: [N] int64, the group of each pair in [0, num_segments), -1 for none. In any order.
        num_segments: K, the number of groups.

    Returns:
        rho: [K] float64 in [-1, 1]; NaN where undefined: fewer than 2 pairs, x or y constant, or a NaN.
        n: [K] int64, the number of pairs of each group.

    Raises:
        TypeError: segment_ids are not int64. ValueError: shapes disagree, or (CPU only; on CUDA it counts as -1) an
        id is out of range.

    Source: Spearman 1904; agrees with ``scipy.stats.spearmanr``.
    """
    check_tensors("segmented_spearman", x=x, y=y, segment_ids=segment_ids)
    if x.dtype != y.dtype or not x.is_floating_point():
        x, y = x.double(), y.double()
    result: tuple[Tensor, Tensor] = call(
        torch.ops.mlc_ext.segmented_spearman, x.detach(), y.detach(), segment_ids, num_segments
    )
    return result


@fake_of("segmented_spearman")
def _(x: Tensor, y: Tensor, segment_ids: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    return x.new_empty((num_segments,), dtype=torch.float64), segment_ids.new_empty((num_segments,))


without_gradient("segmented_spearman", instead_of_vmap=SEGMENTS_INSTEAD)
