"""Objects and detections on a few images, in COCO's formats, by hand or at random, and pycocotools on them."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mlc_ext.detectors.evaluation.coco_metrics import CocoEvaluator


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


def coco(truth, results, **parameters):
    """pycocotools' evaluation, with ``parameters`` in place of its own."""
    with contextlib.redirect_stdout(io.StringIO()):
        gt, dt = COCO(), COCO()
        gt.dataset = truth
        dt.dataset = {**truth, "annotations": [{**row, "id": k, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
                                               for k, row in enumerate(results, start=1)]}  # fmt: skip
        gt.createIndex()
        dt.createIndex()
        evaluation = COCOeval(gt, dt, "bbox")
        for name, value in parameters.items():
            setattr(evaluation.params, name, value)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def box_iou(a, b):
    """Of two boxes xywh."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


class Data:
    """Ground truth as CocoEvaluator takes it."""

    def __init__(self, truth):
        self.truth = truth
        self.label_to_category = {k + 1: entry["id"] for k, entry in enumerate(truth["categories"])}

    def ground_truth(self):
        return self.truth


def evaluated(truth, results, backend="pycocotools"):
    """An evaluator with the results."""
    evaluator = CocoEvaluator(Data(truth), backend=backend)
    for image in truth["images"]:
        rows = [row for row in results if row["image_id"] == image["id"]]
        boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        evaluator.update([image["id"]], [{
            "boxes": boxes, "scores": torch.tensor([row["score"] for row in rows], dtype=torch.float64),
            "labels": torch.tensor([row["category_id"] for row in rows], dtype=torch.int64),
        }])  # fmt: skip
    return evaluator
