"""Large-scale jittering (LSJ): resized by a random factor, then cropped."""

from __future__ import annotations

import torch
from torch import Tensor

from ..transforms import Resize, Target, resized
from .crop import random_crop


class ScaleJitter:
    """Resizes to the size of ``resize`` times a factor drawn uniformly from ``factors`` = (lowest, highest)."""

    def __init__(self, resize: Resize, factors: tuple[float, float]):
        self.resize, self.factors = resize, factors

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        low, high = self.factors
        factor = low + (high - low) * float(torch.rand(()))
        sides = self.resize.drawn_size(*image.shape[-2:])
        height, width = (max(1, int(side * factor + 0.5)) for side in sides)
        return resized(image, target, height, width)

    def __repr__(self) -> str:
        return f"ScaleJitter({self.resize}, factors={self.factors})"


class RandomCrop:
    """Crops to at most ``short`` x ``long`` pixels, the longer ones along the image's longer side, at a random place.

    Smaller images stay as they are: the model pads the images of a batch. ``min_visible`` is :func:`crop`'s.
    """

    def __init__(self, short: int, long: int, min_visible: float):
        self.short, self.long, self.min_visible = short, long, min_visible

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        return random_crop(image, target, *canvas(image, self.short, self.long), self.min_visible)

    def __repr__(self) -> str:
        return f"RandomCrop(short={self.short}, long={self.long}, min_visible={self.min_visible})"


def canvas(image: Tensor, short: int, long: int) -> tuple[int, int]:
    """(height, width): ``short`` and ``long``, the larger one along the image's longer side."""
    low, high = sorted((short, long))
    return (high, low) if image.shape[-2] > image.shape[-1] else (low, high)
