"""torchvision as a peer, where it is installed and works on the device."""

from __future__ import annotations

import functools
from types import ModuleType

import torch


@functools.cache
def torchvision(device: str) -> ModuleType | None:
    """The package, if its operators run on the device; why_not() returns the reason otherwise."""
    return None if why_not(device) else __import__("torchvision")


def which(device: str) -> str:
    """What the tables' "torchvision" is, in a line."""
    if vision := torchvision(device):
        return f"{vision.__version__}, the package itself"
    stands_in = "; its NMS is nms_baseline.cpp, the same algorithm" if device == "cpu" else ""
    return f"not used ({why_not(device)}){stands_in}"


@functools.cache
def why_not(device: str) -> str:
    """Empty if torchvision can be used."""
    try:
        import torchvision
        import torchvision.ops

        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device)
        torchvision.ops.nms(boxes, boxes[:, 3], 0.5)
    except Exception as error:  # a build for another torch fails in many ways
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""
