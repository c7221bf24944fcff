"""The boxes of a data set in flat arrays: workers would copy a list of objects per image page by page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .annotations import Row


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
        """The boxes of the images at the sorted indices ``kept`` alone."""
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
