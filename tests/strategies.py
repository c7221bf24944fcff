"""Inputs of the operator tests: hypothesis strategies. What needs no hypothesis is in comparisons.py."""

import torch
from comparisons import *  # noqa: F403
from comparisons import DTYPES
from hypothesis import strategies as st
from torch import Tensor

dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**31 - 1)


# Values from pools where ties, near-ties and extremes are common, not rare.
value_pools = st.sampled_from(
    [
        st.integers(0, 4).map(lambda i: i / 4),
        st.integers(0, 1024).map(lambda i: i / 1024),
        st.floats(0, 1, width=16),
        st.floats(0, 1, width=32),
        st.floats(-60000, 60000, width=16),
        st.sampled_from([0.0, -0.0, 1.0, 1.0 - 2.0**-11, 2.0**-14, 5.9604644775390625e-08, -3.5, 60000.0]),
    ]
)


@st.composite
def segments(draw, max_size: int = 48, max_groups: int = 5) -> tuple[list[float], list[int], int]:
    """Values, their groups (-1: none) in any order, and how many groups there are."""
    num_groups = draw(st.integers(0, max_groups))
    member = st.tuples(draw(value_pools), st.integers(-1, num_groups - 1))
    members = draw(st.lists(member, max_size=max_size))
    return [v for v, _ in members], [k for _, k in members], num_groups


def as_tensors(values: list[float], ids: list[int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.tensor(values, dtype=torch.float64).to(dtype), torch.tensor(ids, dtype=torch.int64)


coordinates = st.sampled_from(
    [
        st.integers(0, 12).map(float),
        st.integers(-100, 900).map(float),
        st.floats(-50, 1000, width=16),
        st.floats(-50, 1000, width=32),
    ]
)


# For gradients: sides that tie often and never nearly so, which would ask for more digits than there are.
half_pixels = st.integers(-16, 48).map(lambda i: i / 2)


@st.composite
def box_lists(draw, coordinate=None, max_size: int = 12) -> list[list[float]]:
    """xyxy boxes; some repeat, touch, are empty or inverted."""
    coordinate = draw(coordinates) if coordinate is None else coordinate
    return [list(box) for box in draw(st.lists(st.tuples(*[coordinate] * 4), max_size=max_size))]


def as_boxes(boxes: list[list[float]], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4).to(dtype)
