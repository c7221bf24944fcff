"""An evaluation in detail: by class, by kind of error, by confusion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..printable import printable
from .coco_metrics import CocoEvaluator
from .confusion import BACKGROUND, SCORE_THRESHOLD, Confusion, confusion
from .curves import ClassCurves
from .error_shares import KINDS, ErrorShare, ErrorShares, error_shares
from .matching import class_names, counted_objects
from .metrics_table import shown

MOST_CLASSES = 100
"""Classes in a table, those of most objects; all are in the JSON."""

_MOST_IN_MATRIX = 10
_LARGEST = 10
_CURVES_AT = (0.5, 0.75)
_LONGEST = 30
"""Characters of a class's name in a table on the screen."""


@dataclass
class ClassMetrics:
    """One class; AP and AR in 0..1, NaN without objects."""

    category_id: int
    name: str
    objects: int
    """Without crowd."""
    AP: float
    AP50: float
    AP75: float
    AR: float
    """The mean of the recalls at IoU .5:.95, of at most 100 detections of an image and class."""


@dataclass
class Explanation:
    """What :func:`explain` found."""

    classes: list[ClassMetrics]
    """In the order of the category ids."""
    errors: ErrorShares
    confusion: Confusion
    curves: ClassCurves

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON: undefined ones are NaN. Curves by name of the class, at IoU .5 and .75."""
        curves = {
            f"{iou:g}": [np.round(self.curves.precision[_at(self.curves, iou), :, k], 5).tolist()
                         for k in range(len(self.classes))]
            for iou in _CURVES_AT
        }  # fmt: skip
        return {
            "classes": [asdict(each) for each in self.classes],
            "errors": self.errors.to_dict(),
            "confusion": self.confusion.to_dict(),
            "precision_recall": {"recalls": np.round(self.curves.recalls, 5).tolist(), "precision": curves},
        }


def explain(evaluator: CocoEvaluator, score_threshold: float = SCORE_THRESHOLD) -> Explanation:
    """The details of what an evaluator has gathered; ``score_threshold`` is the confusion matrix's."""
    truth, results, curves = evaluator.truth, evaluator.results(), evaluator.class_curves()
    objects = Counter(entry["category_id"] for entry in counted_objects(truth))
    ap = curves.precision.mean(1)  # [T, K]
    classes = [
        ClassMetrics(
            category,
            name,
            objects[category],
            AP=float(ap[:, k].mean()),
            AP50=float(ap[_at(curves, 0.5), k]),
            AP75=float(ap[_at(curves, 0.75), k]),
            AR=float(curves.recall[:, k].mean()),
        )
        for k, (category, name) in enumerate(zip(curves.categories, class_names(truth), strict=True))
    ]
    matrix = confusion(truth, results, score_threshold=score_threshold)
    return Explanation(classes, error_shares(truth, results), matrix, curves)


def class_precision(curves: ClassCurves, iou: float) -> np.ndarray:
    """[R, K] precision by recall of every class at an IoU threshold."""
    return curves.precision[_at(curves, iou)]


def _at(curves: ClassCurves, iou: float) -> int:
    (row,) = np.flatnonzero(np.isclose(curves.ious, iou))
    return int(row)


def most_objects(classes: Sequence[ClassMetrics]) -> list[ClassMetrics]:
    """The :data:`MOST_CLASSES` classes of most objects, in their order."""
    chosen = sorted(range(len(classes)), key=lambda k: -classes[k].objects)[:MOST_CLASSES]
    return [classes[k] for k in sorted(chosen)]


def as_text(found: Explanation) -> str:
    """The details as tables on the screen."""
    return "\n\n".join([_classes(found.classes), _errors(found.errors), _confusion(found.confusion)])


def _name(name: str) -> str:
    """A class's name in one line of limited length."""
    name = printable(name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."


def _classes(classes: Sequence[ClassMetrics]) -> str:
    listed = most_objects(classes)
    width = max([len("class"), *(len(_name(each.name)) for each in listed)])
    lines = [f"{'class':{width}} {'objects':>8} {'AP':>6} {'AP50':>6} {'AP75':>6} {'AR':>6}"]
    for each in listed:
        figures = " ".join(f"{shown(key, getattr(each, key)):>6}" for key in ("AP", "AP50", "AP75", "AR"))
        lines.append(f"{_name(each.name):{width}} {each.objects:>8} {figures}")
    if len(classes) > len(listed):
        lines.append(f"{len(classes) - len(listed)} classes of fewer objects are in the JSON alone")
    return "\n".join(lines)


def _errors(errors: ErrorShares) -> str:
    rows: dict[str, tuple[ErrorShare, str]] = {name: (errors.kinds[name], KINDS[name]) for name in KINDS}
    rows["false positives"] = errors.false_positives, "all detections without an object"
    rows["false negatives"] = errors.false_negatives, "all objects without a detection"
    heading = "AP50 gained if this kind were fixed: TIDE; detections of any score"
    lines = [f"{'errors at IoU .5':16} {'count':>8} {'dAP50':>6}  ({heading})"]
    for name, (share, meaning) in rows.items():
        lines.append(f"{name:16} {share.count:>8} {shown('AP50', share.gain):>6}  {meaning}")
    return "\n".join(lines)


def _confusion(found: Confusion) -> str:
    title = f"confusion, detections with score > {found.score_threshold:g}, IoU >= {found.iou:g}"
    if len(found.names) > _MOST_IN_MATRIX:
        largest = found.largest(_LARGEST)
        names = [f"{_name(each.truth)} as {_name(each.detected)}" for each in largest]
        lines = [f"  {name}: {each.count} ({100 * each.share:.1f}%)" for name, each in zip(names, largest, strict=True)]
        heading = f"{title}, the largest (share of the objects of the class):"
        return "\n".join([heading, *(lines or ["  none"])])
    labels = [*map(_name, found.names), BACKGROUND]
    width = max(len("objects"), *map(len, labels))
    cells = max(6, *(len(name) + 1 for name in labels))
    lines = [f"{title}: rows objects, columns detections", " " * width + "".join(f"{name:>{cells}}" for name in labels)]
    for name, row in zip(labels, found.matrix, strict=True):
        lines.append(f"{name:{width}}" + "".join(f"{value:>{cells}}" for value in row))
    return "\n".join(lines)
