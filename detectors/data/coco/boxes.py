"""The boxes of a data set in flat arrays, and their likely form.

A list of objects per image would be copied into every worker process, page by page, as reference counts are written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .rows import Row

_MOST = 0.95  # of the boxes fit a form
_OVERHANGING = 0.3  # of the boxes reach out of their image by more than a pixel
_CORNER, _MANY = 0.6, 50  # if 50 boxes all lie within this fraction of each side, it is reported


@dataclass
class BoxTable:
    """N boxes of M images, sorted by image."""

    offsets: np.ndarray
    """[M + 1] where each image's boxes begin."""
    boxes: np.ndarray
    """float32 [N, 4] xyxy, clipped to the image."""
    file_boxes: np.ndarray
    """float64 [N, 4] xywh, as in the file."""
    labels: np.ndarray
    areas: np.ndarray
    iscrowd: np.ndarray

    @classmethod
    def of_rows(cls, rows: Sequence[Row], image_ids: Sequence[int]) -> BoxTable:
        """The rows of these images, in their order; within an image in the rows' order."""
        position = {image_id: k for k, image_id in enumerate(image_ids)}
        rows = sorted((row for row in rows if row.image_id in position), key=lambda row: position[row.image_id])
        counts = np.bincount([position[row.image_id] for row in rows], minlength=len(image_ids)).astype(np.int64)
        return cls(
            np.concatenate([[0], np.cumsum(counts)]),
            np.array([row.box for row in rows], dtype=np.float32).reshape(-1, 4),
            np.array([row.file_box for row in rows], dtype=np.float64).reshape(-1, 4),
            np.array([row.label for row in rows], dtype=np.int64),
            np.array([row.area for row in rows], dtype=np.float64),
            np.array([row.iscrowd for row in rows], dtype=bool),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def owners(self) -> np.ndarray:
        """[N] index of each box's image."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def of_images(self, kept: np.ndarray) -> BoxTable:
        """Only the boxes of the images at the sorted indices ``kept``."""
        there = np.isin(self.owners, kept)
        return BoxTable(
            np.concatenate([[0], np.cumsum(np.diff(self.offsets)[kept])]),
            *(each[there] for each in (self.boxes, self.file_boxes, self.labels, self.areas, self.iscrowd)),
        )

    def target(self, index: int) -> dict[str, Tensor]:
        """An image's boxes as tensors."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        return {
            "boxes": torch.tensor(self.boxes[rows]),
            "labels": torch.tensor(self.labels[rows]),
            "iscrowd": torch.tensor(self.iscrowd[rows]),
            "area": torch.tensor(self.areas[rows], dtype=torch.float32),
        }

    def annotations(self, image_ids: Sequence[int], categories: dict[int, int]) -> list[dict[str, Any]]:
        """As in a COCO JSON; ``categories`` are the ids by label. Ids count from 1: pycocotools takes a match with id 0
        for none."""
        return [
            {
                "id": k + 1,
                "image_id": image_ids[owner],
                "category_id": categories[int(self.labels[k])],
                "bbox": self.file_boxes[k].tolist(),
                "area": float(self.areas[k]),
                "iscrowd": int(self.iscrowd[k]),
            }
            for k, owner in enumerate(self.owners)
        ]


def likely_form(boxes: np.ndarray, sizes: np.ndarray) -> str | None:
    """The likely fault of ``boxes``, read as x, y, width, height in pixels; None if there is no sign of one.

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
    corners = (w > x) & (h > y) & (w <= width + 1) & (h <= height + 1)
    if _mostly(corners):
        return f"{share}, {_share(corners)} fit as x1, y1, x2, y2: COCO has x, y, width, height"
    centers = (x - w / 2 >= -1) & (y - h / 2 >= -1) & (x + w / 2 <= width + 1) & (y + h / 2 <= height + 1)
    if _mostly(centers):
        return f"{share}, {_share(centers)} fit as center x, center y, width, height: COCO has the left upper corner"
    return f"{share}: COCO has x, y (left upper corner), width, height in pixels of the image's size in the file"


def _share(agree: np.ndarray) -> str:
    """In percent, rounded down: 100% are all."""
    return f"{math.floor(100 * np.mean(agree))}%"


def _mostly(agree: np.ndarray) -> bool:
    return bool(np.mean(agree) >= _MOST)
