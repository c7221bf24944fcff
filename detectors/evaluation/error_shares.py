"""What a detector's errors cost, by kind: TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection
Errors", ECCV 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .matching import Matched, match

FOREGROUND, BACKGROUND = 0.5, 0.1
"""TIDE's IoU thresholds t_f and t_b."""

KINDS = {
    "localization": "IoU .1 to .5 with an object of its class",
    "classification": "IoU at least .5 with an object of another class",
    "duplicate": "IoU at least .5 with an object of its class that a better detection has",
    "background": "IoU below .1 with every object",
    "both": "IoU .1 to .5 with an object of another class, no object of its class",
    "missed": "objects not found, that no error of classification or localization is on",
}
"""Kinds of errors. A false positive has the first of the five kinds before "missed" that applies."""

_RECALLS = np.linspace(0, 1, 101)


@dataclass
class ErrorShare:
    """The errors of a kind."""

    count: int
    gain: float
    """dAP50: AP50 when all of them are mended, minus AP50; 0..1."""


@dataclass
class ErrorShares:
    """The errors of a detector at IoU .5."""

    ap50: float
    """As COCO computes it: 0..1, NaN without objects."""
    kinds: dict[str, ErrorShare]
    """In the order of :data:`KINDS`."""
    false_positives: ErrorShare
    false_negatives: ErrorShare

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return asdict(self)


def error_shares(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> ErrorShares:
    """The errors of detections in COCO's results format, and what each kind costs.

    Each kind is mended alone. Classification and localization: the detection becomes a true positive of the object
    that it is on; if that object is found already it is removed, and of several on one object, of both kinds, all but
    the best are. Duplicate, background, both: the detection is removed. Missed: the object is removed. False positives:
    all are removed; false negatives: all objects without a match are. A gain below 0 is 0, as in TIDE's program.

    AP50 is the mean over the classes with objects. A class whose objects have all been removed counts as 0 if it has
    detections, and is left out otherwise, as in TIDE's program. A gain is NaN if no class is left, as that of "missed"
    for a detector without detections.
    """
    found = match(truth, results, iou=FOREGROUND)
    kind = false_positive_kinds(found)
    correct = found.objects >= 0
    positives = np.bincount(found.object_labels, minlength=found.num_classes)
    counted = positives > 0
    hit = np.zeros(len(found.object_labels), dtype=bool)
    hit[found.objects[correct]] = True
    repaired, target = _repaired(found, kind, hit)
    covered = hit.copy()
    covered[target[repaired]] = True
    names = list(KINDS)
    before = _mean_ap(found.scores, found.labels, correct, positives, counted)

    def gain(labels=found.labels, good=correct, keep=slice(None), objects=positives) -> float:
        after = _mean_ap(found.scores[keep], labels[keep], good[keep], objects, counted)
        return max(after - before, 0.0) if np.isfinite(before) else float("nan")

    def without(missing: np.ndarray) -> np.ndarray:
        return positives - np.bincount(found.object_labels[missing], minlength=found.num_classes)

    kinds = {}
    for number, name in enumerate(names[:-1]):
        mine = kind == number
        mended = mine & repaired
        labels = found.labels.copy()
        labels[mended] = found.object_labels[target[mended]]
        kinds[name] = ErrorShare(int(mine.sum()), gain(labels, correct | mended, ~mine | mended))
    kinds["missed"] = ErrorShare(int((~covered).sum()), gain(objects=without(~covered)))
    return ErrorShares(
        before,
        kinds,
        ErrorShare(int((~correct).sum()), gain(keep=correct)),
        ErrorShare(int((~hit).sum()), gain(objects=without(~hit))),
    )


def false_positive_kinds(found: Matched) -> np.ndarray:
    """[D] index into :data:`KINDS` of each detection, -1 for true positives."""
    conditions = [
        found.objects >= 0,
        (found.same_iou >= BACKGROUND) & (found.same_iou < FOREGROUND),
        found.other_iou >= FOREGROUND,
        found.same_iou >= FOREGROUND,
        np.maximum(found.same_iou, found.other_iou) < BACKGROUND,
    ]
    return np.select(conditions, [-1, 0, 1, 2, 3], 4)


def _repaired(found: Matched, kind: np.ndarray, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([D] whether the detection becomes a true positive when its kind is mended, [D] the object it then has)."""
    target = np.where(kind == 0, found.same_object, np.where(kind == 1, found.other_object, -1))
    repaired = np.zeros(len(kind), dtype=bool)
    candidates = np.flatnonzero((target >= 0) & ~np.append(hit, True)[target])
    candidates = candidates[np.argsort(-found.scores[candidates], kind="stable")]
    repaired[candidates[np.unique(target[candidates], return_index=True)[1]]] = True  # the best of each object
    return repaired, target


def _mean_ap(
    scores: np.ndarray, labels: np.ndarray, correct: np.ndarray, positives: np.ndarray, counted: np.ndarray
) -> float:
    order = np.lexsort((-scores, labels))  # stable
    ends = np.searchsorted(labels[order], np.arange(len(positives) + 1))
    values = []
    for label in np.flatnonzero(counted):
        own = correct[order[ends[label] : ends[label + 1]]]
        if positives[label] > 0:
            values.append(average_precision(own, int(positives[label])))
        elif len(own):
            values.append(0.0)
    return float(np.mean(values)) if values else float("nan")


def average_precision(correct: np.ndarray, positives: int) -> float:
    """COCO's AP of detections in falling score order, by 101 levels of recall."""
    hits = np.cumsum(correct)
    precision = hits / np.arange(1, len(correct) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / positives, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(at, len(precision))].mean())
