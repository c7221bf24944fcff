"""Random objects and detections on a few images, in COCO's formats."""

from __future__ import annotations

import numpy as np


def truth_of(objects, num_images=2, num_classes=3):
    """COCO detection data of (image, class from 1, box xywh[, iscrowd])."""
    rows = [
        {"id": k, "image_id": image, "category_id": category, "bbox": list(map(float, box)),
         "area": float(box[2] * box[3]), "iscrowd": crowd[0] if crowd else 0}
        for k, (image, category, box, *crowd) in enumerate(objects, start=1)
    ]  # fmt: skip
    return {
        "images": [{"id": k + 1, "height": 100, "width": 100} for k in range(num_images)],
        "categories": [{"id": k + 1, "name": f"class {k + 1}"} for k in range(num_classes)],
        "annotations": rows,
    }


def results_of(detections):
    """COCO results of (image, class, box xywh, score)."""
    return [
        {"image_id": image, "category_id": category, "bbox": list(map(float, box)), "score": score}
        for image, category, box, score in detections
    ]


def random_case(seed, *, num_images=6, num_classes=3, crowd=0.1):
    """(truth, results): boxes that overlap much, so that every kind of error occurs."""
    rng = np.random.default_rng(seed)
    objects, detections = [], []
    for image in range(1, num_images + 1):
        for _ in range(rng.integers(0, 6)):
            box = [*rng.integers(0, 60, 2), *rng.integers(8, 40, 2)]
            objects.append((image, int(rng.integers(1, num_classes + 1)), box, int(rng.uniform() < crowd)))
            for _ in range(rng.integers(0, 5)):
                label = objects[-1][1] if rng.uniform() < 0.6 else int(rng.integers(1, num_classes + 1))
                moved = np.array(box) + rng.normal(0, rng.choice([1, 4, 12]), 4)
                moved[2:] = np.maximum(moved[2:], 2)
                detections.append((image, label, moved, float(rng.uniform())))
        for _ in range(rng.integers(0, 3)):
            box = [*rng.integers(0, 80, 2), *rng.integers(4, 20, 2)]
            detections.append((image, int(rng.integers(1, num_classes + 1)), box, float(rng.uniform())))
    return truth_of(objects, num_images, num_classes), results_of(detections)
