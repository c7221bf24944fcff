"""Weights of the rows of a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import check_tensors


def row_weights(op: str, weights: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Weights or a mask in the form of the operators: constants of the dtype in which a loss of `dtype` is computed."""
    if weights is None:
        return None
    check_tensors(op, weights=weights)
    if weights.is_complex():
        raise TypeError(f"{op}: weights must be real, got {weights.dtype}")
    return weights.detach().to(torch.promote_types(dtype, torch.float32))
