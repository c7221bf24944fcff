"""Parts of images, with the boxes that are visible in them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..transforms import Target

_ROUNDING = 1e-4
"""A box at the image's border may exceed it by float32 rounding after a resize: less than all of it is visible then."""


def crop(
    image: Tensor, target: Target, top: int, left: int, height: int, width: int, min_visible: float
) -> tuple[Tensor, Target]:
    """-> (the part of ``image`` [3, H, W], its target): boxes are moved and clipped, areas shrink as their boxes do.

    A box with less than a pixel of a side in the part is removed. An object with less than ``min_visible`` of its box's
    area in the part becomes a crowd: in training its pixels are neither an object nor background. ``target["cut"]``
    counts both.

    Args:
        top, left, height, width: of the part, which lies within the image.
    """
    part = image[:, top : top + height, left : left + width]
    whole = target["boxes"] - target["boxes"].new_tensor([left, top, left, top])
    low, high = whole.new_zeros(4), whole.new_tensor([width, height, width, height])
    boxes = whole.clamp(low, high)
    share = _areas(boxes) / _areas(whole)
    kept = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    hidden = kept & ~target["iscrowd"] & (share < min_visible - _ROUNDING)
    fields = {
        "boxes": boxes,
        "labels": target["labels"],
        "iscrowd": target["iscrowd"] | hidden,
        "area": target["area"] * share,
    }
    return part, {
        **target,
        **{name: values[kept] for name, values in fields.items()},
        "cut": target.get("cut", 0) + int((~kept | hidden).sum()),
    }


def _areas(boxes: Tensor) -> Tensor:
    """[n] of boxes with a positive area, xyxy."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    return width * height


def random_crop(image: Tensor, target: Target, height: int, width: int, min_visible: float) -> tuple[Tensor, Target]:
    """:func:`crop` to at most ``height`` x ``width`` pixels, at a place that is drawn."""
    old_height, old_width = image.shape[-2:]
    height, width = min(height, old_height), min(width, old_width)
    top = int(torch.randint(old_height - height + 1, ()))
    left = int(torch.randint(old_width - width + 1, ()))
    return crop(image, target, top, left, height, width, min_visible)
