"""The precision in which the library computes."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 if it is in half precision, else unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def common_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    """The dtype in which two tensors are computed together: that of the wider one, at least float32."""
    return torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
