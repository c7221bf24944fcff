"""Box coders: between boxes and what the localization branch regresses.

Boxes are xyxy in pixels. All functions broadcast over leading dimensions, are differentiable, compute in the
wider of their arguments' types (half-precision predictions against float32 priors give float32 boxes) and
never synchronize.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# A thinner gt is encoded as this wide (pixels), so that its log-size target stays finite.
MIN_GT_SIZE = 1e-3


def _check_last(name: str, argument: str, tensor: Tensor, size: int) -> None:
    if tensor.dim() == 0 or tensor.shape[-1] != size:
        raise ValueError(f"{name}: {argument} must be [..., {size}], got {tuple(tensor.shape)}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: {argument} must be floating point, got {tensor.dtype}")


def clip_boxes(boxes: Tensor, image_size: tuple[float, float]) -> Tensor:
    """``boxes`` ``[..., 4]`` clamped to 0..width and 0..height of ``image_size`` (height, width)."""
    height, width = image_size
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)), dim=-1)


class LTRBCoder:
    """FCOS (Tian et al., 2019): a box as the distances from a point to its left, top, right, bottom sides."""

    def encode(self, points: Tensor, boxes: Tensor) -> Tensor:
        """Distances ``[..., 4]`` in pixels from ``points`` ``[..., 2]`` to ``boxes`` ``[..., 4]``.

        Negative where the point lies outside the box. Raises ValueError on shapes, TypeError on integer
        tensors.
        """
        _check_last("LTRBCoder.encode", "points", points, 2)
        _check_last("LTRBCoder.encode", "boxes", boxes, 4)
        return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)

    def decode(self, points: Tensor, ltrb: Tensor) -> Tensor:
        """Boxes ``[..., 4]`` from ``points`` ``[..., 2]`` and distances ``[..., 4]`` in pixels. Raises as
        :meth:`encode`."""
        _check_last("LTRBCoder.decode", "points", points, 2)
        _check_last("LTRBCoder.decode", "ltrb", ltrb, 4)
        return torch.cat((points - ltrb[..., :2], points + ltrb[..., 2:]), dim=-1)


class DeltaXYWHCoder:
    """R-CNN's coder (Girshick et al., 2014): center shifts in units of the prior's size, and log size ratios.

    Args:
        means, stds: of dx, dy, dw, dh: the network sees ``(delta - mean) / std``.
        wh_ratio_clip: decoding clamps dw and dh to +-|log(wh_ratio_clip)|, a growth of at most 62.5 by
            default.
        mmdet1: MMDetection 1.1's convention: a box from x1 to x2 is ``x2 - x1 + 1`` wide.
    """

    def __init__(
        self,
        means: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        wh_ratio_clip: float = 16 / 1000,
        *,
        mmdet1: bool = False,
    ) -> None:
        self.means, self.stds = tuple(map(float, means)), tuple(map(float, stds))
        if len(self.means) != 4 or len(self.stds) != 4 or min(self.stds) <= 0:
            raise ValueError(f"DeltaXYWHCoder: needs 4 means and 4 positive stds, got {self.means} and {self.stds}")
        if not 0 < wh_ratio_clip < 1:
            raise ValueError(f"DeltaXYWHCoder: wh_ratio_clip must be in (0, 1), got {wh_ratio_clip}")
        self.max_log_ratio = -math.log(wh_ratio_clip)
        self.extent = 1.0 if mmdet1 else 0.0  # what is added to x2 - x1 to give a width

    def _center_and_size(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return (boxes[..., :2] + boxes[..., 2:]) * 0.5, boxes[..., 2:] - boxes[..., :2] + self.extent

    def encode(self, priors: Tensor, boxes: Tensor) -> Tensor:
        """Deltas ``[..., 4]`` (dx, dy, dw, dh) that take ``priors`` ``[..., 4]`` to ``boxes`` ``[..., 4]``.

        A gt thinner than ``MIN_GT_SIZE`` counts as that wide. Raises ValueError on shapes, TypeError on
        integers.
        """
        _check_last("DeltaXYWHCoder.encode", "priors", priors, 4)
        _check_last("DeltaXYWHCoder.encode", "boxes", boxes, 4)
        prior_center, prior_size = self._center_and_size(priors)
        center, size = self._center_and_size(boxes)
        shift = (center - prior_center) / prior_size
        growth = torch.log(size.clamp(min=MIN_GT_SIZE) / prior_size)
        deltas = torch.cat((shift, growth), dim=-1).unbind(-1)
        # Scalars, not a tensor of means: that would be a host-to-device copy at every call.
        return torch.stack([(d - m) / s for d, m, s in zip(deltas, self.means, self.stds, strict=True)], dim=-1)

    def decode(self, priors: Tensor, deltas: Tensor) -> Tensor:
        """Boxes ``[..., 4]`` from ``priors`` ``[..., 4]`` and predicted ``deltas`` ``[..., 4]``. Raises as
        :meth:`encode`."""
        _check_last("DeltaXYWHCoder.decode", "priors", priors, 4)
        _check_last("DeltaXYWHCoder.decode", "deltas", deltas, 4)
        # Before the exponential, where half precision would lose digits.
        deltas = deltas.to(torch.promote_types(deltas.dtype, priors.dtype))
        prior_center, prior_size = self._center_and_size(priors)
        dx, dy, dw, dh = (d * s + m for d, m, s in zip(deltas.unbind(-1), self.means, self.stds, strict=True))
        growth = torch.stack((dw, dh), dim=-1).clamp(-self.max_log_ratio, self.max_log_ratio)
        center = prior_center + prior_size * torch.stack((dx, dy), dim=-1)
        half = (prior_size * growth.exp() - self.extent) * 0.5
        return torch.cat((center - half, center + half), dim=-1)
