"""Paired differences between detectors with a bootstrap over validation images and seeds.

pycocotools matches detections to objects image by image, once; a resample draws images with replacement and averages
precision over them as COCOeval.accumulate does, each image as often as it was drawn.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

IOUS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
_RECALLS = np.linspace(0.0, 1.0, 101)
BATCH = 64
"""Resamples computed at a time."""


class ClassMatches:
    """The detections of one class, the best first, and what they match at T IoU thresholds.

    Precision falls between two true positives, so its envelope needs the true positives alone, and of the others how
    many come before each: a resample costs a sum over the detections and a few passes over the true positives.

    Args:
        image: [D] index of each detection's image.
        true, false: [T, D] bool; neither where it matches a crowd.
        objects: [I] objects in each image, without crowd.
    """

    def __init__(self, image: np.ndarray, true: np.ndarray, false: np.ndarray, objects: np.ndarray) -> None:
        self.objects = objects
        last = np.flatnonzero(true.any(axis=0))
        end = last[-1] + 1 if len(last) else 0
        self._image = image[:end]
        self._found = [np.flatnonzero(row[:end]) for row in true]
        counted = [np.flatnonzero(row[:end]) for row in true | false]
        # nearly always all detections count at all thresholds: their sum is then taken once
        self._counted: list[np.ndarray] = []
        self._which: list[int] = []
        for row in counted:
            same = next((k for k, known in enumerate(self._counted) if np.array_equal(known, row)), None)
            if same is None:
                self._counted.append(row)
                same = len(self._counted) - 1
            self._which.append(same)
        # of each true positive, its place among the detections that count
        self._places = [
            np.searchsorted(self._counted[k], found) for k, found in zip(self._which, self._found, strict=True)
        ]

    def average_precision(self, counts: np.ndarray) -> np.ndarray:
        """-> [B, T] AP where image i is there ``counts[:, i]`` [B, I] times; NaN without an object."""
        objects = counts @ self.objects
        weights = counts[:, self._image]
        totals = [np.cumsum(weights[:, row], axis=1) for row in self._counted]
        result = np.zeros((len(counts), len(self._found)))
        for t, (found, places) in enumerate(zip(self._found, self._places, strict=True)):
            if len(found) == 0:
                continue
            true = np.cumsum(weights[:, found], axis=1)
            # a true positive of an image that is not there has the precision of its place, which the one after exceeds
            # or equals, and no recall of its own
            precision = true / np.maximum(totals[self._which[t]][:, places], np.spacing(1))
            precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            reached = np.searchsorted(_RECALLS, true / np.maximum(objects, 1)[:, None], side="right")
            reached[true == 0] = 0  # recall 0 is reached by the first true positive, not before
            result[:, t] = (precision * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(_RECALLS)
        result[objects == 0] = np.nan
        return result


@dataclass
class Matches:
    """What a detector found on a validation set."""

    classes: list[ClassMatches]
    recalled: dict[int, np.ndarray]
    """{n: [T, I] objects found among the n best detections of an image}, all classes together."""
    objects: np.ndarray
    """[I]."""

    def ap(self, counts: np.ndarray | None = None) -> np.ndarray:
        """[B, T] mean over classes of AP at IoU .5:.95. ``counts`` [B, I]: how often each image was drawn (1)."""
        counts = np.ones((1, len(self.objects))) if counts is None else counts
        found = np.stack([c.average_precision(counts) for c in self.classes])
        defined = np.isfinite(found)
        number = defined.sum(axis=0)
        return np.where(number > 0, np.where(defined, found, 0).sum(axis=0) / np.maximum(number, 1), np.nan)

    def ar(self, best: int, counts: np.ndarray | None = None) -> np.ndarray:
        """[B, T] recall among the ``best`` detections of each image."""
        counts = np.ones((1, len(self.objects))) if counts is None else counts
        return (counts @ self.recalled[best].T) / (counts @ self.objects)[:, None]

    def metric(self, name: str, counts: np.ndarray | None = None) -> np.ndarray:
        """[B] AP, AP50, ..., AP95, or AR@n of the resamples ``counts`` [B, I], by default of the images as they are."""
        if name.startswith("AR@"):
            return self.ar(int(name[3:]), counts).mean(axis=1)
        values = self.ap(counts)
        return values.mean(axis=1) if name == "AP" else values[:, IOUS.index(int(name[2:]) / 100)]


def match(
    truth: Mapping[str, list], results: Sequence[Mapping], *, max_detections: int = 100, recall_at: Sequence[int] = ()
) -> Matches:
    """Matches ``results`` (COCO's results format) with a COCO-format ground truth, as pycocotools does.

    Args:
        max_detections: of an image and class.
        recall_at: numbers of detections per image at which recall is computed (class-agnostic truth of one category).
    """
    coco, found = COCO(), COCO()
    rows = [
        {**row, "id": k, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for k, row in enumerate(results, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        for made, content in ((coco, truth), (found, {**truth, "annotations": rows})):
            made.dataset = dict(content)
            made.createIndex()
        evaluation = COCOeval(coco, found, "bbox")
        evaluation.params.maxDets = [max_detections]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.evaluate()
    images = len(evaluation.params.imgIds)
    classes, recalled, total = [], {n: np.zeros((len(IOUS), images)) for n in recall_at}, np.zeros(images)
    for c in range(len(evaluation.params.catIds)):
        of_class = evaluation.evalImgs[c * images : (c + 1) * images]
        objects = np.array([0 if e is None else np.sum(np.asarray(e["gtIgnore"]) == 0) for e in of_class], dtype=float)
        total += objects
        here = [(k, e) for k, e in enumerate(of_class) if e is not None]
        classes.append(_class_matches(here, objects))
        for best, sums in recalled.items():
            for k, e in here:
                sums[:, k] += ((e["dtMatches"] > 0) & ~(e["dtIgnore"] > 0))[:, :best].sum(axis=1)
    return Matches(classes, recalled, total)


def _class_matches(entries: list[tuple[int, dict]], objects: np.ndarray) -> ClassMatches:
    image = np.concatenate([np.full(len(e["dtScores"]), k) for k, e in entries] or [np.zeros(0)]).astype(np.int64)
    scores = np.concatenate([e["dtScores"] for _, e in entries] or [np.zeros(0)])
    empty = [np.zeros((len(IOUS), 0))]
    matched = np.concatenate([e["dtMatches"].reshape(len(IOUS), -1) for _, e in entries] or empty, axis=1) > 0
    ignored = np.concatenate([e["dtIgnore"].reshape(len(IOUS), -1) for _, e in entries] or empty, axis=1) > 0
    order = np.argsort(-scores, kind="mergesort")
    matched, ignored = matched[:, order], ignored[:, order]
    return ClassMatches(image[order], matched & ~ignored, ~matched & ~ignored, objects)


@dataclass(frozen=True)
class Difference:
    """Of a metric, ours minus the baseline's, paired by seed: mean over seeds and its 95 % interval."""

    mean: float
    low: float
    high: float
    p: float
    """Two-sided, of no difference; not corrected for the number of comparisons."""


class Bootstrap:
    """Resamples of the images and, where there are several, of the seeds; the same for all rows and tables.

    Args:
        images: how many there are.
        resamples: how many are drawn.
    """

    def __init__(self, images: int, resamples: int, seed: int = 0) -> None:
        self.resamples, self._seed = resamples, seed
        draw = np.random.default_rng(seed)
        chosen = draw.multinomial(images, np.full(images, 1 / images), size=resamples)
        self.counts = chosen.astype(np.float32)  # exact, and the sums below 2^24 too

    def values(self, matches: Matches, metric: str) -> np.ndarray:
        """[resamples] the metric of a detector on each resample of the images."""
        parts = [matches.metric(metric, self.counts[k : k + BATCH]) for k in range(0, self.resamples, BATCH)]
        return np.concatenate(parts)

    def difference(self, plain: np.ndarray, values: np.ndarray) -> Difference:
        """The percentile interval of a row's difference from its baseline.

        Args:
            plain: [S] the difference of each seed on the images as they are.
            values: [S, resamples] that on the resamples, of :meth:`values`.
        """
        seeds = len(plain)
        chosen = np.random.default_rng([self._seed, seeds]).integers(seeds, size=(self.resamples, seeds))
        drawn = values[chosen, np.arange(self.resamples)[:, None]].mean(axis=1)
        low, high = np.percentile(drawn, [2.5, 97.5])
        tail = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
        return Difference(float(plain.mean()), float(low), float(high), min(1.0, 2 * (tail + 1) / (len(drawn) + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down method (1979)."""
    order = np.argsort(p_values, kind="stable")
    steps = np.array(p_values, dtype=float)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()
