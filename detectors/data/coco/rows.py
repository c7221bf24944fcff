"""The annotations of a COCO detection JSON that can be used, and the reasons to drop the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .read import CocoContent
from .values import as_flag, as_id, as_numbers

UNKNOWN_IMAGE = "annotations of unknown images"
UNKNOWN_CATEGORY = "annotations of unknown categories"
MALFORMED_FLAG = "annotations with a malformed iscrowd"
MALFORMED_BOX, NO_AREA, OUTSIDE = "malformed boxes", "boxes without area", "boxes outside the image"
CLIPPED = "boxes clipped to the image"
FIELDS = {
    UNKNOWN_IMAGE: "image_id", UNKNOWN_CATEGORY: "category_id", MALFORMED_FLAG: "iscrowd",
    MALFORMED_BOX: "bbox", NO_AREA: "bbox", OUTSIDE: "bbox",
}  # fmt: skip
"""The faulty field, by the reason to drop an annotation."""
LOST_WITH_IMAGE = ("annotations of missing images", "annotations of broken images")


@dataclass
class Row:
    """An annotation as it is used."""

    image_id: int
    label: int
    box: np.ndarray  # xyxy, clipped
    file_box: Sequence[float]  # xywh, as in the file
    area: float
    iscrowd: bool


def usable_rows(
    content: CocoContent, images: dict[int, dict[str, Any]], labels: Mapping[int, int], examples: dict[str, str]
) -> list[Row]:
    """The annotations of these images and {category: label} that can be used. The others are counted in the content's
    ``dropped``, the first of each reason is described in ``examples``."""
    rows = []
    for k, annotation in enumerate(content.annotations):
        row = _parse_row(annotation, images, content, labels)
        if not isinstance(row, str):
            rows.append(row)
            continue
        content.dropped[row] += 1
        if row in FIELDS and row not in examples:
            examples[row] = f"annotations[{k}] has {FIELDS[row]} {annotation.get(FIELDS[row])!r:.60}"
    if not content.annotations:
        content.noted["file without annotations"] = 1
    return rows


def _parse_row(
    annotation: Any,
    images: dict[int, dict[str, Any]],
    content: CocoContent,
    labels: Mapping[int, int],
) -> Row | str:
    """The usable form of an annotation of these images and {category: label}, or the reason to drop it. Unusual but
    used annotations are counted in the content's ``noted``."""
    if not isinstance(annotation, Mapping):
        return "malformed annotations"
    image_id, category = as_id(annotation.get("image_id")), as_id(annotation.get("category_id"))
    if image_id not in content.known_images:
        return UNKNOWN_IMAGE
    image_id = content.same_image.get(image_id, image_id)
    if image_id not in images:
        return LOST_WITH_IMAGE[0]
    if category not in labels:
        return UNKNOWN_CATEGORY
    crowd = as_flag(annotation.get("iscrowd"))
    if crowd is None:
        return MALFORMED_FLAG
    box = as_numbers(annotation.get("bbox"), 4)
    if box is None:
        return MALFORMED_BOX
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return NO_AREA
    width, height = images[image_id]["width"], images[image_id]["height"]
    corners = np.clip([x, y, x + w, y + h], 0, [width, height, width, height])
    clipped = corners.astype(np.float32)
    # judged in float32, the precision that training sees
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        return OUTSIDE
    if max(map(abs, box)) >= 2**31:  # its area, which COCO evaluates, may be infinite
        return MALFORMED_BOX
    if not np.array_equal(corners, [x, y, x + w, y + h]):
        content.noted[CLIPPED] += 1
    area = as_numbers([annotation.get("area")], 1)
    size = float((clipped[2] - clipped[0]) * (clipped[3] - clipped[1]))
    return Row(
        image_id,
        labels[category],
        clipped,
        box,
        area[0] if area is not None and 0 < area[0] < 2**62 else size,
        crowd,
    )
