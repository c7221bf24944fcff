"""Priors of the dense detectors: FCOS's points and the anchors of RetinaNet and RPN.

Order: levels fine to coarse; in a level row by row, and at a location anchor by anchor, as the heads flatten
theirs.
The tensors are cached per size, device and type, and shared: do not write into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..tensor_cache import cached_tensors

Size = tuple[int, int]


def _check_levels(name: str, feature_sizes: Sequence[Size], strides: Sequence[int], dtype: torch.dtype) -> None:
    if len(feature_sizes) != len(strides):
        raise ValueError(f"{name}: {len(feature_sizes)} feature sizes for {len(strides)} strides {list(strides)}")
    if not dtype.is_floating_point:
        raise TypeError(f"{name}: dtype must be floating point, got {dtype}")


def _grid(size: Size, stride: int, device: torch.device) -> Tensor:
    """The corners (x, y) of the cells of a level, row by row: float32 ``[H * W, 2]``."""
    # float32 whatever the caller's type: half precision cannot count pixels beyond 2048.
    ys = torch.arange(size[0], device=device, dtype=torch.float32) * stride
    xs = torch.arange(size[1], device=device, dtype=torch.float32) * stride
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack((x, y), dim=-1).view(-1, 2)


@cached_tensors(maxsize=64)
def _level_points(size: Size, stride: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return (_grid(size, stride, device) + stride / 2).to(dtype)


def fcos_points(
    feature_sizes: Sequence[Size],
    strides: Sequence[int],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """The centers ``((j + 0.5) * stride, (i + 0.5) * stride)`` of the cells of each level, in pixels.

    Args:
        feature_sizes: (H, W) of each level.
        strides: pixels per cell of each level.

    Returns:
        One ``[H * W, 2]`` tensor of (x, y) per level.

    Raises:
        ValueError if the lists differ in length, TypeError for an integer ``dtype``.
    """
    _check_levels("fcos_points", feature_sizes, strides, dtype)
    return [
        _level_points(tuple(size), stride, device=device, dtype=dtype)
        for size, stride in zip(feature_sizes, strides, strict=True)
    ]


@dataclass(frozen=True)
class AnchorGenerator:
    """Anchors of ``len(ratios) * len(scales)`` shapes at every cell of every level.

    Args:
        strides: pixels per cell of each level; an anchor of scale s and ratio 1 at stride t is s * t pixels
            wide.
        scales: sizes in units of the stride.
        ratios: height / width, at constant area. The shapes run ratio by ratio, scale by scale in each.
        mmdet1: MMDetection 1.1's anchors: centered on (stride - 1) / 2 instead of the cell's corner, a box from x1
            to x2 being ``x2 - x1 + 1`` wide, base anchors rounded to whole pixels.
        torchvision: torchvision's: scale * stride cut to whole pixels, then the corners rounded.
    """

    strides: tuple[int, ...]
    scales: tuple[float, ...]
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    mmdet1: bool = False
    torchvision: bool = False

    def __post_init__(self) -> None:
        for name in ("strides", "scales", "ratios"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)  # a list would leave the generator unhashable
            if not values or not all(v > 0 for v in values):
                raise ValueError(f"AnchorGenerator: {name} must be positive and not empty, got {values}")

    @classmethod
    def retinanet(
        cls, strides: Sequence[int] = (8, 16, 32, 64, 128), *, mmdet1: bool = False, torchvision: bool = False
    ) -> AnchorGenerator:
        """RetinaNet's nine anchors (Lin et al., 2017): octave base 4, 3 scales per octave, 3 ratios."""
        scales = tuple(4 * 2 ** (i / 3) for i in range(3))
        return cls(tuple(strides), scales, mmdet1=mmdet1, torchvision=torchvision)

    @classmethod
    def rpn(
        cls, strides: Sequence[int] = (4, 8, 16, 32, 64), *, mmdet1: bool = False, torchvision: bool = False
    ) -> AnchorGenerator:
        """The three anchors of an RPN on a feature pyramid: scale 8, ratios 1/2, 1, 2."""
        return cls(tuple(strides), (8.0,), mmdet1=mmdet1, torchvision=torchvision)

    @property
    def num_anchors(self) -> int:
        """Anchors per location (A)."""
        return len(self.ratios) * len(self.scales)

    def base_anchors(self, level: int) -> Tensor:
        """The float32 anchors ``[A, 4]`` of the cell at the origin of ``level``."""
        stride, scales = self.strides[level], self.scales
        if self.torchvision:
            stride, scales = 1, [int(stride * scale) for scale in scales]
        h_ratios = torch.tensor(self.ratios, dtype=torch.float32).sqrt()
        scales = torch.tensor(scales, dtype=torch.float32)
        widths = (stride * (1 / h_ratios)[:, None] * scales[None]).reshape(-1)
        heights = (stride * h_ratios[:, None] * scales[None]).reshape(-1)
        sizes = torch.stack((widths, heights), dim=-1)
        if self.mmdet1:
            half, center = 0.5 * (sizes - 1), 0.5 * (stride - 1)
            return torch.cat((center - half, center + half), dim=-1).round()
        corners = torch.cat((-0.5 * sizes, 0.5 * sizes), dim=-1)
        return corners.round() if self.torchvision else corners

    def __call__(
        self,
        feature_sizes: Sequence[Size],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> list[Tensor]:
        """The anchors of each level, ``[H * W * A, 4]`` xyxy in pixels, for ``feature_sizes`` (H, W) of each.

        Anchors may reach beyond the image. Raises ValueError unless there is one size per stride, TypeError
        for an integer ``dtype``.
        """
        _check_levels("AnchorGenerator", feature_sizes, self.strides, dtype)
        return [
            _level_anchors(self, level, tuple(size), device=device, dtype=dtype)
            for level, size in enumerate(feature_sizes)
        ]


@cached_tensors(maxsize=64)
def _level_anchors(
    generator: AnchorGenerator, level: int, size: Size, device: torch.device, dtype: torch.dtype
) -> Tensor:
    shifts = _grid(size, generator.strides[level], device).repeat(1, 2)  # [HW, 4]
    return (shifts[:, None] + generator.base_anchors(level).to(shifts.device)).reshape(-1, 4).to(dtype)
