"""Small lists of the host as tensors of a device."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor


def to_device(values: Sequence[int] | Sequence[bool], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A list as a tensor on the device. On CUDA from pinned memory, so that the host does not wait for the copy."""
    return torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def offsets_of(counts: Sequence[int], device: torch.device) -> Tensor:
    """[B + 1] int64: where each image's gts begin among those of the batch."""
    return to_device(list(accumulate(counts, initial=0)), torch.int64, device)
