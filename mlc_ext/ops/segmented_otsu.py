"""segmented_otsu: one Otsu threshold per group of values. The rule and its contract: csrc/otsu.h."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import call, check_tensors
from ._register import SEGMENTS_INSTEAD, fake_of, without_gradient


def segmented_otsu(values: Tensor, segment_ids: Tensor, num_segments: int, *, bins: int | None = None) -> Tensor:
    """Otsu's threshold of every group of values (the tau of Eq. 4-8).

    A value is positive iff ``value > threshold``. Of all cuts between two distinct sorted values, the one with the
    largest between-class variance is taken, the first of equals; the threshold is the largest value of the lower class.
    The sums are computed in exact integer arithmetic: the result does not depend on the order of the values and has the
    same bits on CPU and CUDA.

    Args:
        values: [N] floating point, finite. Constants: no gradient flows.
        segment_ids: [N] int64, the group of each value in [0, num_segments), -1 for none. In any order.
        num_segments: K, the number of groups.
        bins: None for the exact threshold, or the number of histogram bins (2..65536) for scikit-image's
            ``threshold_otsu`` rule.

    Returns:
        [K] thresholds of values' dtype. Empty group: NaN. All values equal: that value (nothing is above it).

    Raises:
        TypeError: a dtype is wrong. ValueError: shapes disagree, an id is out of range, or (CPU only; on CUDA no
        synchronization is spent on it) a value is NaN or infinite.

    Source: Otsu 1979; paper Eq. 4 and 6.
    """
    check_tensors("segmented_otsu", values=values, segment_ids=segment_ids)
    result: Tensor = call(torch.ops.mlc_ext.segmented_otsu, values.detach(), segment_ids, num_segments, bins)
    return result


@fake_of("segmented_otsu")
def _(values: Tensor, segment_ids: Tensor, num_segments: int, bins: int | None = None) -> Tensor:
    return values.new_empty((num_segments,))


without_gradient("segmented_otsu", instead_of_vmap=SEGMENTS_INSTEAD)
