"""Paired differences between detectors with a bootstrap over validation images and seeds.

pycocotools matches detections to objects image by image; a resample draws images with replacement and averages
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


@dataclass
class ClassMatches:
    """The detections of one class, the best first, and what they match at T IoU thresholds."""

    image: np.ndarray
    """[D] index of the detection's image."""
    true: np.ndarray
    """[T, D] bool."""
    false: np.ndarray
    """[T, D] bool; neither where it matches a crowd."""
    objects: np.ndarray
    """[I] objects in each image, without crowd."""

    def average_precision(self, counts: np.ndarray) -> np.ndarray | None:
        """-> [T] AP where image i is there ``counts[i]`` times; None without an object."""
        objects = float(counts @ self.objects)
        if objects == 0:
            return None
        weights = counts[self.image]
        true = np.cumsum(self.true * weights, axis=1)
        false = np.cumsum(self.false * weights, axis=1)
        precision = true / np.maximum(true + false, np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        found = np.zeros(len(true))
        for t, recall in enumerate(true / objects):
            at = np.searchsorted(recall, _RECALLS, side="left")
            found[t] = precision[t][at[at < len(recall)]].sum() / len(_RECALLS)
        return found


@dataclass
class Matches:
    """What a detector found on a validation set."""

    classes: list[ClassMatches]
    recalled: dict[int, np.ndarray]
    """{detections an image: [T, I] objects found among the best so many}, all classes together."""
    objects: np.ndarray
    """[I]."""

    def ap(self, counts: np.ndarray | None = None) -> np.ndarray:
        """[T] mean over classes of AP at IoU .5:.95; ``counts`` [I]: how often each image is there (once)."""
        counts = np.ones(len(self.objects)) if counts is None else counts
        found = [ap for c in self.classes if (ap := c.average_precision(counts)) is not None]
        return np.mean(found, axis=0) if found else np.full(len(IOUS), np.nan)

    def ar(self, best: int, counts: np.ndarray | None = None) -> np.ndarray:
        """[T] recall among the ``best`` detections of each image."""
        counts = np.ones(len(self.objects)) if counts is None else counts
        return self.recalled[best] @ counts / (self.objects @ counts)

    def metric(self, name: str, counts: np.ndarray | None = None) -> float:
        """AP, AP50, ..., AP95, or AR@n."""
        if name.startswith("AR@"):
            return float(self.ar(int(name[3:]), counts).mean())
        values = self.ap(counts)
        return float(values.mean() if name == "AP" else values[IOUS.index(int(name[2:]) / 100)])


def match(
    truth: Mapping[str, list], results: Sequence[Mapping], *, max_detections: int = 100, recall_at: Sequence[int] = ()
) -> Matches:
    """Matches ``results`` (COCO's results format) with a COCO-format ground truth, as pycocotools does.

    Args:
        max_detections: of an image and class.
        recall_at: numbers of best detections an image whose recall is wanted (class-agnostic truth of one category).
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


def paired_differences(
    rows: Mapping[str, Sequence[Matches]],
    baseline: str,
    metric: str,
    *,
    resamples: int = 300,
    seed: int = 0,
) -> dict[str, Difference]:
    """Each row against ``baseline``: percentile intervals of a bootstrap over images and, where there are several,
    seeds. Draws are shared by all rows.

    Args:
        rows: a row's matches of each seed, in the same order of seeds for all.
    """
    seeds, images = len(rows[baseline]), len(rows[baseline][0].objects)
    draw = np.random.default_rng(seed)
    plain = {key: np.mean([m.metric(metric) for m in of_seeds]) for key, of_seeds in rows.items()}
    drawn: dict[str, list[float]] = {key: [] for key in rows}
    for _ in range(resamples):
        counts = draw.multinomial(images, np.full(images, 1 / images)).astype(float)
        chosen = draw.integers(seeds, size=seeds)
        for key, of_seeds in rows.items():
            values = {int(s): of_seeds[s].metric(metric, counts) for s in set(chosen.tolist())}
            drawn[key].append(float(np.mean([values[int(s)] for s in chosen])))
    base = np.array(drawn[baseline])
    return {
        key: Difference(plain[key] - plain[baseline], *np.percentile(np.array(drawn[key]) - base, [2.5, 97.5]))
        for key in rows
        if key != baseline
    }
