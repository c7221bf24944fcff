"""Transforms of pairs: an image (uint8 tensor [3, H, W]) and its target (the dict of `CocoDetection`).

Random numbers are from torch's default generator only; `build_loader` seeds it for every sample. Nothing is changed in
place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Target = dict[str, Any]


class Compose:
    """Applies transforms one after the other."""

    def __init__(self, transforms: Sequence[Callable[[Tensor, Target], tuple[Tensor, Target]]]):
        self.transforms = list(transforms)

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        for transform in self.transforms:
            image, target = transform(image, target)
        return image, target

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.transforms))})"


class Resize:
    """Resizes, keeping the ratio, so that the short side is `short` pixels unless the long one would pass
    `long`: scale = min(long / max(h, w), short / min(h, w)) and sides rounded half up, the rule of
    MMDetection and Detectron.

    A sequence of `short` sides is multi-scale training: one of them is drawn for every image.

    Interpolation is bilinear with antialiasing: where an image shrinks (small inputs on a CPU, COCO's large
    photographs), plain bilinear skips pixels, and small objects alias; where it grows (COCO at 800 pixels)
    the two are the same.
    """

    def __init__(self, short: int | Sequence[int], long: int):
        self.short = tuple(short) if isinstance(short, Sequence) else (short,)
        self.long = long
        if not self.short or not all(isinstance(s, int) and s > 0 for s in (*self.short, long)):
            raise ValueError(f"Resize needs whole sides of at least a pixel, got short={short!r}, long={long!r}")

    def output_size(self, height: int, width: int, short: int) -> tuple[int, int]:
        """(height, width) after resizing to `short`."""
        scale = min(self.long / max(height, width), short / min(height, width))
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def drawn_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing to the short side, drawn from several if there are."""
        short = self.short[0]
        if len(self.short) > 1:
            short = self.short[int(torch.randint(len(self.short), ()))]
        return self.output_size(height, width, short)

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        return resized(image, target, *self.drawn_size(*image.shape[-2:]))

    def __repr__(self) -> str:
        return f"Resize(short={self.short}, long={self.long})"


def resized(image: Tensor, target: Target, height: int, width: int) -> tuple[Tensor, Target]:
    """The image at a size, with its boxes and areas."""
    old_height, old_width = image.shape[-2:]
    if (height, width) == (old_height, old_width):
        return image, target
    image = _interpolate(image, height, width)
    # By the sizes that came out, not by the scale: rounding makes the two sides' ratios differ.
    fx, fy = width / old_width, height / old_height
    boxes = target["boxes"] * target["boxes"].new_tensor([fx, fy, fx, fy])
    return image, {**target, "boxes": boxes, "area": target["area"] * (fx * fy)}


def _interpolate(image: Tensor, height: int, width: int) -> Tensor:
    """Antialiased bilinear interpolation of a uint8 image; in uint8, as that is several times faster."""
    # PyTorch's uint8 kernel is wrong on images one pixel wide (mixed-up channels, or an internal assertion).
    native = width > 1
    resized = F.interpolate(
        image[None] if native else image[None].float(), size=(height, width), mode="bilinear", antialias=True
    )[0]
    return resized if native else resized.round().clamp(0, 255).to(image.dtype)


class RandomHorizontalFlip:
    """Mirrors left and right with probability `p`."""

    def __init__(self, p: float = 0.5):
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in 0..1, got {p}")
        self.p = p

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        if torch.rand(()) >= self.p:
            return image, target
        x1, y1, x2, y2 = target["boxes"].unbind(-1)
        width = image.shape[-1]
        return image.flip(-1), {**target, "boxes": torch.stack([width - x2, y1, width - x1, y2], dim=-1)}

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip(p={self.p})"
