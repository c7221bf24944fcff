"""A run's best detections, its worst ones, and what it missed, as crops of the images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.coco.dataset import CocoDetection
from ..data.errors import ImageDecodeError
from ..evaluation.coco_metrics import CocoEvaluator, ProposalEvaluator
from ..evaluation.error_shares import BACKGROUND, FOREGROUND
from ..evaluation.matching import counted_objects, match
from ..visualization.drawing import POSITIVE, draw_boxes
from .embedded_images import jpeg_uri

DETECTION, OBJECT = POSITIVE, (0, 150, 255)
"""Orange boxes are detections, blue ones objects."""

_LONGEST = 300
"""Pixels of a crop's long side in the page."""


@dataclass
class Case:
    """A detection, an object, or both."""

    image_id: int
    category: int
    score: float | None
    iou: float
    """With the matched object, else the largest with an object of its class."""
    detection: list[float] | None
    """x, y, width, height; as ``target``, the object."""
    target: list[float] | None
    area: float = 0.0

    def caption(self, names: dict[int, str]) -> str:
        measured = "" if self.score is None else f", score {self.score:.2f}, IoU {self.iou:.2f}"
        return names[self.category] + measured


@dataclass
class Group:
    """Cases of one kind, the clearest first."""

    key: str
    title: str
    meaning: str
    cases: list[Case]


def find_groups(evaluator: CocoEvaluator | ProposalEvaluator, count: int) -> list[Group]:
    """The four groups of up to ``count`` cases, of every image the clearest one alone."""
    results, objects = evaluator.results(), counted_objects(evaluator.truth)
    found = match(evaluator.truth, results, iou=FOREGROUND, most=evaluator.most)
    correct = found.objects >= 0
    targets = np.where(correct, found.objects, found.same_object)
    ious = np.where(correct, found.ious, found.same_iou)
    cases = [
        _detection(results[row], objects[target] if target >= 0 else None, iou)
        for row, target, iou in zip(found.rows.tolist(), targets.tolist(), ious.tolist(), strict=True)
    ]
    right = [case for case, hit in zip(cases, correct, strict=True) if hit]
    wrong = [case for case, hit in zip(cases, correct, strict=True) if not hit]
    missed = np.setdiff1d(np.arange(len(objects)), found.objects)
    unseen = [_missed(objects[number]) for number in missed.tolist()]
    placed = [case for case in wrong if BACKGROUND <= case.iou < FOREGROUND]
    elsewhere = [case for case in wrong if case.iou < BACKGROUND]
    return [
        Group("best", "Best", "true positives (matched to an object at IoU .5, as COCO matches) of the largest score "
              "x IoU", _clearest(right, count, lambda case: case.score * case.iou)),
        Group("misplaced", "Confident and badly placed", "false positives whose IoU with an object of their class is "
              "in .1 to .5, of the highest score", _clearest(placed, count, lambda case: case.score)),
        Group("false", "Confident and wrong", "false positives whose IoU with every object of their class is below "
              ".1, of the highest score: background, or another class",
              _clearest(elsewhere, count, lambda case: case.score)),
        Group("missed", "Missed", "objects that no detection matches at IoU .5, the largest first",
              _clearest(unseen, count, lambda case: case.area)),
    ]  # fmt: skip


def _detection(row: Mapping[str, Any], target: Mapping[str, Any] | None, iou: float) -> Case:
    box = None if target is None else target["bbox"]
    return Case(row["image_id"], row["category_id"], row["score"], iou, row["bbox"], box)


def _missed(target: Mapping[str, Any]) -> Case:
    return Case(target["image_id"], target["category_id"], None, 0.0, None, target["bbox"], target["area"])


def crop(case: Case, dataset: CocoDetection) -> str | None:
    """The surroundings of a case with its boxes as a data URI; None where the image cannot be read."""
    try:
        image = dataset.load_image(dataset.image_ids.index(case.image_id))
    except (OSError, ImageDecodeError):
        return None
    boxes = torch.tensor([box for box in (case.detection, case.target) if box is not None])
    boxes[:, 2:] += boxes[:, :2]
    colors = [color for box, color in ((case.detection, DETECTION), (case.target, OBJECT)) if box is not None]
    height, width = image.shape[1:]
    x1, y1, x2, y2 = (*boxes[:, :2].amin(0).tolist(), *boxes[:, 2:].amax(0).tolist())
    margin = 0.25 * max(x2 - x1, y2 - y1, 32)
    left, top = max(0, int(x1 - margin)), max(0, int(y1 - margin))
    right, bottom = min(width, int(x2 + margin) + 1), min(height, int(y2 + margin) + 1)
    part = image[:, top : max(bottom, top + 1), left : max(right, left + 1)]
    if 0 in part.shape:
        return None
    return jpeg_uri(draw_boxes(part, boxes - torch.tensor([left, top, left, top]), colors, weight=5), _LONGEST)


def _clearest(cases: Iterable[Case], count: int, key) -> list[Case]:
    chosen: dict[int, Case] = {}
    for case in sorted(cases, key=key, reverse=True):  # stable: of equal ones the first in the order of the images
        if len(chosen) == count:
            break
        chosen.setdefault(case.image_id, case)
    return list(chosen.values())
