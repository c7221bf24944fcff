"""Small constant tensors (points, anchors, image means) made once per device instead of at every step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def cached_tensors(maxsize: int) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Remember the last ``maxsize`` results of ``make(*args, device, dtype)``; ``args`` must be hashable.

    The results are shared: do not write into them. Saves the host-to-device copy that each
    ``torch.tensor(list)`` on a GPU waits for. Nothing is remembered while torch.compile or torch.export
    traces (it would be a fake tensor) or while a CUDA graph is captured (the memory would be the graph's).
    """

    def decorate(make: Callable[..., T]) -> Callable[..., T]:
        remembered = functools.lru_cache(maxsize)(make)

        @functools.wraps(make)
        def wrapper(*args, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32) -> T:
            if torch.compiler.is_compiling():
                return make(*args, device, dtype)
            device = torch.device(device if device is not None else torch.get_default_device())
            if device.type == "cuda":
                if torch.cuda.is_current_stream_capturing():
                    return make(*args, device, dtype)
                if device.index is None:  # "cuda" means another GPU once the current device changes
                    device = torch.device("cuda", torch.cuda.current_device())
            # A tensor made in inference mode could not be saved for backward by a later training step.
            with torch.inference_mode(False):
                return remembered(*args, device, dtype)

        return wrapper

    return decorate
