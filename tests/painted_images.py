"""Images whose boxes can be seen in their pixels: one object is white, the rest is black."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor


@st.composite
def boxes_in(draw, height: int, width: int, least: int = 1) -> list[int]:
    """xyxy in whole pixels, at least ``least`` a side."""
    x, y = draw(st.integers(0, width - least)), draw(st.integers(0, height - least))
    return [x, y, draw(st.integers(x + least, width)), draw(st.integers(y + least, height))]


@st.composite
def scenes(draw, most: int = 4) -> tuple[tuple[int, int], dict]:
    """(height, width) of an image, and its target; label k is the k-th box."""
    size = draw(st.integers(8, 90)), draw(st.integers(8, 90))
    boxes = draw(st.lists(boxes_in(*size), max_size=most))
    return size, target_of(boxes, [draw(st.booleans()) for _ in boxes])


def target_of(boxes: list, crowd: list[bool] | None = None) -> dict:
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {
        "boxes": boxes,
        "labels": torch.arange(1, len(boxes) + 1),
        "iscrowd": torch.tensor(crowd or [False] * len(boxes), dtype=torch.bool),
        "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        "image_id": 7,
        "orig_size": (1, 1),
    }


def painted(size: tuple[int, int], box: list | Tensor | None = None) -> Tensor:
    """A black image uint8 [3, H, W] with a white box (xyxy, whole pixels)."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    if box is not None:
        x1, y1, x2, y2 = map(int, box)
        image[:, y1:y2, x1:x2] = 255
    return image


def bounds(image: Tensor) -> list[int] | None:
    """Bounds (xyxy) of the pixels that are more white than black; None without any."""
    white = image[0] > 127
    if not white.any():
        return None
    rows, columns = white.any(1).nonzero(), white.any(0).nonzero()
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
