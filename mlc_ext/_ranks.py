"""The processes of torch.distributed; a single process if it is not initialized."""

from __future__ import annotations

import torch.distributed as dist


def rank() -> int:
    """The number of this process, 0 without a process group."""
    return dist.get_rank() if _grouped() else 0


def world_size() -> int:
    """The number of processes, 1 without a process group."""
    return dist.get_world_size() if _grouped() else 1


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()
