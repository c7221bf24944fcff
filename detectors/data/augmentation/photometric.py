"""Random brightness, contrast, saturation and hue, as in SSD and torchvision's RandomPhotometricDistort."""

from __future__ import annotations

import torch
from torch import Tensor

from ..transforms import Target

BRIGHTNESS, CONTRAST, SATURATION, HUE = (0.875, 1.125), (0.5, 1.5), (0.5, 1.5), (-0.05, 0.05)
"""Ranges of the factors, and of the hue's shift in turns: torchvision's defaults."""
_GRAY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in an image's gray (ITU-R 601)."""
_STEPS = 2**16
"""Steps in which gray values are summed up: sums of integers do not depend on the number of threads."""


class PhotometricDistort:
    """Changes each of brightness, contrast, saturation and hue with probability ``p``; contrast comes after hue in half
    of the images, else before saturation.

    Values are rounded to bytes once, at the end.
    """

    def __init__(self, p: float = 0.5):
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in 0..1, got {p}")
        self.p = p

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        changes = [(adjust_brightness, BRIGHTNESS), (adjust_saturation, SATURATION), (adjust_hue, HUE)]
        changes.insert(3 if torch.rand(()) < 0.5 else 1, (adjust_contrast, CONTRAST))
        draws = torch.rand(len(changes), 2).tolist()  # all of them in every case: one image's choices shift no others
        chosen = [
            (change, low + (high - low) * amount)
            for (change, (low, high)), (chance, amount) in zip(changes, draws, strict=True)
            if chance < self.p
        ]
        if not chosen:
            return image, target
        values = image.float() / 255
        for change, amount in chosen:
            values = change(values, amount)
        return (values * 255).round().to(image.dtype), target

    def __repr__(self) -> str:
        return f"PhotometricDistort(p={self.p})"


def adjust_brightness(image: Tensor, factor: float) -> Tensor:
    """``factor`` times the values of a float image [3, H, W] in 0..1, clamped to it; so are all results here."""
    return (image * factor).clamp(0, 1)


def adjust_contrast(image: Tensor, factor: float) -> Tensor:
    """``factor`` times the differences from the mean gray."""
    gray = (_gray(image) * _STEPS).round().long()
    return _blend(image, int(gray.sum()) / (_STEPS * gray.numel()), factor)


def adjust_saturation(image: Tensor, factor: float) -> Tensor:
    """``factor`` times the differences from each pixel's gray."""
    return _blend(image, _gray(image), factor)


def adjust_hue(image: Tensor, shift: float) -> Tensor:
    """The hue, in turns, moved by ``shift``; HSV's saturation and value stay."""
    red, green, blue = image
    high, low = image.amax(0), image.amin(0)
    span = high - low
    safe = torch.where(span > 0, span, torch.ones_like(span))
    # in sixths of a turn; gray pixels have none, and their span of 0 leaves them gray
    hue = torch.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    hue = torch.where(high == red, (green - blue) / safe, hue)
    offsets = image.new_tensor([5.0, 3.0, 1.0])[:, None, None]
    place = (hue + 6 * shift + offsets) % 6
    return (high - span * torch.minimum(place, 4 - place).clamp(0, 1)).clamp(0, 1)


def _gray(image: Tensor) -> Tensor:
    red, green, blue = image
    return red * _GRAY[0] + green * _GRAY[1] + blue * _GRAY[2]


def _blend(image: Tensor, other: Tensor | float, factor: float) -> Tensor:
    return (image * factor + other * (1 - factor)).clamp(0, 1)
