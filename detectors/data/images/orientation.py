"""The EXIF orientation of images: one rule for training, evaluation and prediction.

An image is turned as its EXIF orientation asks, as viewers and the other readers of this field do. The exception: where
only the stored pixels have the size that the annotations give, the boxes refer to the stored pixels and nothing is
turned. Prediction has no size to compare and always turns.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

_ORIENTATION = 0x0112
_MOST = 2000
"""Most files whose headers are read to count the turned images; a larger data set is sampled evenly."""


def is_turned(image: Image.Image, size: tuple[int, int] | None) -> bool:
    """Whether the orientation of an opened image is applied; ``size`` is the annotations' (height, width)."""
    orientation = _orientation(image)
    if orientation == 1 or size is None:
        return orientation != 1
    return _size_by(orientation, image) == size or image.size[::-1] != size


def turned_size(image: Image.Image, size: tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) that an opened image has after :func:`turned`."""
    return _size_by(_orientation(image), image) if is_turned(image, size) else image.size[::-1]


def turned(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """A loaded image as its orientation asks, by the rule above."""
    try:
        return ImageOps.exif_transpose(image) if is_turned(image, size) else image
    except Exception:  # broken metadata (any of several types) is no reason to lose the picture
        return image


def _size_by(orientation: int, image: Image.Image) -> tuple[int, int]:
    """(height, width) of the turned image."""
    swapped = orientation >= 5 and image.format != "TIFF"  # Pillow has swapped the sides of a TIFF already
    return image.size if swapped else image.size[::-1]


def _orientation(image: Image.Image) -> int:
    """1..8; 1 (as stored) without a valid orientation."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
        return int(value) if value in range(2, 9) else 1
    except Exception:  # broken metadata
        return 1


def count_turned(
    paths: Sequence[str | os.PathLike], sizes: Sequence[tuple[int, int]], formats: Sequence[str]
) -> Counter[str]:
    """Counts the images that are turned, and those that are not although their orientation is set.

    Only headers are read; orientations that a PNG has behind its pixels are not counted (they are applied).
    """
    at = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), _MOST)).astype(int))
    found: Counter[str] = Counter()
    suffix = "" if len(at) == len(paths) else f" (of {len(at)} looked at)"
    for index in at:
        try:
            with warnings.catch_warnings(), Image.open(paths[index], formats=formats) as image:
                warnings.simplefilter("ignore")
                if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
                    continue  # Pillow would decode the pixels to look behind them
                if _orientation(image) == 1:
                    continue
                applied = is_turned(image, tuple(sizes[index]))
        except Exception:  # any of Pillow's several types: broken files are dealt with at load
            continue
        if applied:
            found[f"images turned by their EXIF orientation{suffix}"] += 1
        else:
            found[f"images not turned by EXIF, as the JSON has the size of their stored pixels{suffix}"] += 1
    return found
