"""The random changes of training images that the settings ask for."""

from __future__ import annotations

import math

from torch.utils.data import Dataset

from ...config.settings import DataConfig
from ..coco.dataset import CocoDetection
from ..transforms import Compose, RandomHorizontalFlip, Resize
from .mosaic import Mosaic
from .photometric import PhotometricDistort
from .scale_jitter import RandomCrop, ScaleJitter

MOSAIC_FACTORS = (0.5, 1.0)
"""On the sizes of a mosaic's images without ``data.scale_jitter``."""


def training_transforms(data: DataConfig) -> Compose:
    """Resize, or with ``data.scale_jitter`` scale jitter and a crop; then what changes no size.

    ValueError if there are several short sides to draw from beside the factors of ``data.scale_jitter``.
    """
    resize = Resize(data.short_side, data.long_side)
    if data.scale_jitter is None:
        return Compose([resize, *_changes(data)])
    if len(resize.short) > 1:
        raise ValueError(
            f"data.scale_jitter takes one data.short_side, got {data.short_side}: both are multi-scale training"
        )
    crop = RandomCrop(data.largest_side, data.long_side, data.min_visible)
    return Compose([ScaleJitter(resize, data.scale_jitter), crop, *_changes(data)])


def with_mosaics(images: CocoDetection, data: DataConfig, epochs: int) -> Dataset:
    """``images``, with ``data.mosaic`` as mosaics in part of a training of ``epochs`` epochs."""
    if data.mosaic == 0:
        return images
    return Mosaic(
        images,
        ScaleJitter(Resize(data.short_side, data.long_side), data.scale_jitter or MOSAIC_FACTORS),
        Compose(_changes(data)),
        short=data.largest_side,
        long=data.long_side,
        p=data.mosaic,
        end=math.floor(data.mosaic_end * epochs + 1e-9),  # 0.29 * 100 is below 29
        min_visible=data.min_visible,
    )


def _changes(data: DataConfig) -> list[RandomHorizontalFlip | PhotometricDistort]:
    """Those that keep an image's size."""
    flip = [RandomHorizontalFlip(data.flip)] if data.flip > 0 else []
    return [*flip, *([PhotometricDistort(data.photometric)] if data.photometric > 0 else [])]
