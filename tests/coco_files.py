"""COCO-format files for the tests of the data, good and bad ones."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from mlc_ext.detectors.data.coco.dataset import CocoDetection


def write_coco(root: Path, annotations, *, images=None, categories=None, files=True) -> tuple[Path, Path]:
    """A data set of 40 x 30 images; image k is filled with the gray level 10 k."""
    if images is None:
        images = [{"id": k, "file_name": f"{k}.png", "width": 40, "height": 30} for k in (1, 2, 3)]
    if categories is None:
        categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "bird"}, {"id": 90, "name": "dog"}]
    root.mkdir(exist_ok=True)
    if files:
        for entry in images:
            Image.new("RGB", (40, 30), (10 * entry["id"],) * 3).save(root / entry["file_name"])
    path = root / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return root, path


def box(image_id=1, bbox=(5, 6, 10, 8), category_id=3, **extra):
    return {
        "id": 1,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(bbox),
        "area": 80,
        "iscrowd": 0,
    } | extra


def encoded(image: Image.Image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height=30, width=40, seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def entry(image_id, name=None, width=40, height=30):
    return {"id": image_id, "file_name": name or f"{image_id}.png", "width": width, "height": height}


def make_dataset(root: Path, rows, *, num_images=4, categories=(2, 5, 11)) -> CocoDetection:
    """`rows`: (image id, category id, xywh, iscrowd)."""
    images = [{"id": k, "file_name": f"{k}.png", "width": 400, "height": 400} for k in range(num_images)]
    for entry in images:
        Image.new("L", (400, 400)).save(root / entry["file_name"])
    annotations = [
        {"id": k + 1, "image_id": i, "category_id": c, "bbox": list(b), "area": b[2] * b[3], "iscrowd": crowd}
        for k, (i, c, b, crowd) in enumerate(rows)
    ]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": c, "name": f"c{c}"} for c in reversed(categories)],
    }
    (root / "a.json").write_text(json.dumps(content))
    return CocoDetection(root, root / "a.json")


def random_rows(rng: np.random.Generator, count=60):
    rows = []
    for _ in range(count):
        w, h = np.exp(rng.uniform(2, 5, 2))
        rows.append(
            (
                int(rng.integers(4)),
                int(rng.choice([2, 5, 11])),
                [*map(float, rng.uniform(0, 200, 2)), float(w), float(h)],
                int(rng.uniform() < 0.1),
            )
        )
    return rows
