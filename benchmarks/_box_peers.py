"""Boxes to measure on, and IoU as one writes it in torch."""

from __future__ import annotations

import torch
from torch import Tensor


def boxes(n: int, device: str, seed: int = 0, jitter_of: Tensor | None = None) -> Tensor:
    """[n, 4] float32 boxes on an image of 1333 x 800; near those of `jitter_of`, where it is given."""
    generator = torch.Generator().manual_seed(seed)
    if jitter_of is not None:
        return jitter_of + 8 * torch.randn(n, 4, generator=generator).to(device)
    corner = torch.rand(n, 2, generator=generator) * torch.tensor([1233.0, 700.0])
    return torch.cat([corner, corner + 16 + torch.rand(n, 2, generator=generator) * 200], 1).to(device)


def _area(low: Tensor, high: Tensor) -> Tensor:
    width, height = (high - low).clamp(min=0).unbind(-1)
    return width * height


def torch_iou(a: Tensor, b: Tensor, generalized: bool = False) -> Tensor:
    """IoU or GIoU of boxes that broadcast against each other."""
    inter = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - inter
    iou = inter / union
    if not generalized:
        return iou
    hull = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    return iou - (hull - union) / hull
