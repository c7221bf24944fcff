"""Which classes a detector takes for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .matching import class_names, image_pairs, match_image

SCORE_THRESHOLD, IOU = 0.3, 0.5
"""Of the confusion matrix; the first is what ``mlc-ext predict`` draws by default."""

BACKGROUND = "background"


class Confused(NamedTuple):
    """Objects of a class detected as another."""

    truth: str
    detected: str
    count: int
    share: float
    """Of all objects of the class."""


@dataclass
class Confusion:
    """A confusion matrix of detections."""

    names: list[str]
    """Of the K classes."""
    matrix: np.ndarray
    """[K + 1, K + 1] counts. Rows are the objects' classes, columns the detections'; the last row holds detections
    without an object, the last column objects without a detection."""
    score_threshold: float
    """Detections with a higher score count."""
    iou: float

    def largest(self, count: int) -> list[Confused]:
        """The ``count`` largest cells between two classes, the largest first."""
        off = np.array(self.matrix)
        off[np.diag_indices_from(off)] = off[-1] = off[:, -1] = 0
        order = np.argsort(-off, axis=None, kind="stable")[:count]
        cells = zip(*np.unravel_index(order, off.shape), strict=True)
        return [
            Confused(
                self.names[row], self.names[column], int(off[row, column]), off[row, column] / self.matrix[row].sum()
            )
            for row, column in cells
            if off[row, column]
        ]

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {
            "score_threshold": self.score_threshold,
            "iou_threshold": self.iou,
            "names": [*self.names, BACKGROUND],
            "matrix": self.matrix.tolist(),
        }


def confusion(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    score_threshold: float = SCORE_THRESHOLD,
    iou: float = IOU,
) -> Confusion:
    """The confusion matrix of detections in COCO's results format.

    Detections are first matched within their class, as COCO matches: the diagonal. Of what is left, pairs of different
    classes with an IoU of at least ``iou`` are taken, the largest IoU first, each object and detection once. Detections
    on crowd of their class do not count.
    """
    names = class_names(truth)
    last = len(names)
    matrix = np.zeros((last + 1, last + 1), dtype=np.int64)
    for pairs in image_pairs(truth, results, score_threshold=score_threshold):
        matched = match_image(pairs, iou)
        free = np.ones(len(pairs.objects), dtype=bool)
        free[matched[matched >= 0]] = False
        waiting = (matched < 0) & (pairs.on_crowd < iou)
        candidates = np.where(waiting[:, None] & free, pairs.ious, 0)
        for at in np.argsort(-candidates, axis=None, kind="stable")[: (candidates >= iou).sum()]:
            detection, target = np.unravel_index(at, candidates.shape)
            if waiting[detection] and free[target]:
                waiting[detection] = free[target] = False
                matched[detection] = target
        hit = matched >= 0
        np.add.at(matrix, (pairs.object_labels[matched[hit]], pairs.labels[hit]), 1)
        np.add.at(matrix[last], pairs.labels[waiting], 1)
        np.add.at(matrix[:, last], pairs.object_labels[free], 1)
    return Confusion(names, matrix, score_threshold, iou)
