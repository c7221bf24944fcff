"""What the losses share: checks of their arguments, one dtype, rows of weight 0, the weighted sum."""

from __future__ import annotations

import torch
from torch import Tensor

from ._dtypes import common_dtype
from ._errors import check_floating, check_shape, check_tensors


def aligned(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one dtype of at least float32. Under autocast the logits may be in half precision, the target not."""
    dtype = common_dtype(a, b)
    return a.to(dtype), b.to(dtype)


def select(x: Tensor, weights: Tensor | None) -> Tensor:
    """x [N, ...] with zeros where the weight is 0, so that infinite values there do not reach the loss and gradient."""
    if weights is None:
        return x
    return torch.where((weights != 0).view(-1, *(1,) * (x.dim() - 1)), x, 0)


def weighted_sum(losses: Tensor, weights: Tensor | None) -> Tensor:
    if losses.dim() == 2:
        losses = losses.sum(1)
    return losses.sum() if weights is None else (losses * weights.detach().to(losses.dtype)).sum()


def row_weights(op: str, weights: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Weights or a mask in the form of the operators: constants of the dtype in which a loss of `dtype` is computed."""
    if weights is None:
        return None
    check_tensors(op, weights=weights)
    if weights.is_complex():
        raise TypeError(f"{op}: weights must be real, got {weights.dtype}")
    return weights.detach().to(torch.promote_types(dtype, torch.float32))


def check_weights(op: str, weights: Tensor | None, n: int) -> None:
    if weights is not None:
        check_shape(op, "weights", weights, (n,))


def check_pair(op: str, name: str, x: Tensor, target_name: str, target: Tensor) -> None:
    check_floating(op, name, x)
    check_floating(op, target_name, target)
    check_shape(op, target_name, target, x.shape)


def check_vectors(op: str, name: str, x: Tensor, target_name: str, target: Tensor, weights: Tensor | None) -> None:
    """Checks for one dimension: [N, 1] and [N] would broadcast to N^2 terms without an error."""
    if x.dim() != 1:
        raise ValueError(f"{op}: {name} must have shape [N], got {list(x.shape)}")
    check_pair(op, name, x, target_name, target)
    check_weights(op, weights, x.shape[0])
