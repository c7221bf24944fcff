"""Boxes that are in another form than COCO's: recognized by how they lie in their images."""

from __future__ import annotations

import numpy as np

_MOST = 0.95  # of the boxes agree with a form
_OVERHANGING = 0.3  # of the boxes leave their image by more than a pixel
_CORNER, _MANY = 0.6, 50  # part of each side within which so many boxes do not all lie by chance


def likely_form(boxes: np.ndarray, sizes: np.ndarray) -> str | None:
    """What is likely wrong with ``boxes``, taken as x, y, width, height in pixels; None if nothing is.

    Args:
        boxes: [n, 4], as in the file.
        sizes: [n, 2] height and width of each box's image.
    """
    if not len(boxes):
        return None
    x, y, w, h = boxes.T
    sides = sizes[:, ::-1]
    height, width = sizes.T
    if _mostly((boxes <= 1).all(1) & (boxes >= 0).all(1)) and _mostly(sides.min(1) > 2):
        return "the boxes are within 0..1: fractions of the image's sides, where COCO has pixels"
    reached = max(((x + w) / width).max(), ((y + h) / height).max())
    if reached < _CORNER and len(boxes) >= _MANY:
        return (
            f"every box lies in the left upper {reached:.0%} of its image: are they percentages, or made for images of "
            "another size than the file gives?"
        )
    overhanging = np.mean((x + w > width + 1) | (y + h > height + 1) | (x < -1) | (y < -1))
    if overhanging < _OVERHANGING:
        return None
    share = f"{overhanging:.0%} of the boxes reach out of their images"
    if _mostly((w > x) & (h > y) & (w <= width + 1) & (h <= height + 1)):
        return f"{share}, none does as x1, y1, x2, y2: COCO has x, y, width, height"
    if _mostly((x - w / 2 >= -1) & (y - h / 2 >= -1) & (x + w / 2 <= width + 1) & (y + h / 2 <= height + 1)):
        return f"{share}, none does as center x, center y, width, height: COCO has the left upper corner"
    return f"{share}: COCO has x, y (left upper corner), width, height in pixels of the image's size in the file"


def _mostly(agree: np.ndarray) -> bool:
    return bool(np.mean(agree) >= _MOST)
