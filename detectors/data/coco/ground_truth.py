"""The objects of COCO detection data, without its images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .boxes import BoxTable
from .categories import Classes
from .read import read_coco
from .rows import usable_rows


def coco_dictionary(image_ids: Sequence[int], sizes: np.ndarray, table: BoxTable, classes: Classes) -> dict[str, Any]:
    """COCO detection data of images with ``sizes`` [M, 2] (height, width), as pycocotools takes it."""
    return {
        "info": {},
        "images": [
            {"id": image_id, "height": int(h), "width": int(w)}
            for image_id, (h, w) in zip(image_ids, sizes, strict=True)
        ],
        "annotations": table.annotations(image_ids, classes.label_to_category),
        "categories": [{"id": category, "name": name} for category, name in classes.categories.items()],
    }


class GroundTruth:
    """The usable objects of an annotation file, by the rules of
    :class:`~mlc_ext.detectors.data.coco.dataset.CocoDetection`; the images need not be there.

    Args:
        path: a COCO detection JSON.
        class_agnostic: treat all classes as one, "object", with the category id 1.

    Attributes:
        image_ids: of the usable images.
        unusable_images: ids of the file's other images.

    Raises:
        FileNotFoundError: no such file. ValueError: it is not COCO detection data, or has no usable image.
    """

    def __init__(self, path: Path, *, class_agnostic: bool = False) -> None:
        content = read_coco(path)
        classes = Classes(content.categories)
        rows = usable_rows(content, content.images, classes.category_to_label, {})
        self.dropped = dict(content.dropped)
        if class_agnostic:
            classes = Classes({1: "object"})
            for row in rows:
                row.label = 1
        self.classes = classes
        self.image_ids = list(content.images)
        self.unusable_images = sorted(content.known_images - content.images.keys())
        self.table = BoxTable.of_rows(rows, self.image_ids)
        self.sizes = np.array([(entry["height"], entry["width"]) for entry in content.images.values()], dtype=np.int64)

    @property
    def label_to_category(self) -> dict[int, int]:
        return self.classes.label_to_category

    def ground_truth(self) -> dict[str, Any]:
        """As :meth:`~mlc_ext.detectors.data.coco.dataset.CocoDetection.ground_truth`."""
        return coco_dictionary(self.image_ids, self.sizes, self.table, self.classes)
