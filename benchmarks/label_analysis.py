"""Which priors mutual labeling keeps, by pyramid level and size of the object, and where score and IoU disagree.

    python benchmarks/label_analysis.py runs/tables/generated/seed*/fcos-_ml [--data DIR] [--images N] [--markdown FILE]

Every run is taken as it was trained: its own labels at the end of its training, on the images of its validation set.
Figures of several runs are means, with the standard deviation. The tables:

1. The baseline's positives, and the shares that stay positives for classification and for localization. "new" are
   positives of a task that are none of the baseline's, per 100 of the baseline's. RPN's are counted before a sample of
   them is drawn.
2. Spearman's rho of score and IoU per object, of its 50 predictions of highest score before NMS (Divergence's first
   protocol): of all of them, of those of one level (the mean over the object's levels with at least 3 of them), and
   between levels (of the means of the levels with at least 3 of them; 1 or -1 if there are two). Objects whose rho is
   undefined are left out.
3. Of FCOS, where an object's best box is predicted. Among the baseline's positive points of an object that has at least
   5 of them: Spearman's rho of the predicted box's IoU with the point's centerness and with its score, the centerness
   of the point with the best box and the highest there is, and the IoU of the boxes of the point of highest score, of
   the most central point, of the best and of all.

The size of an object is the area of its box in the original image. (COCO's own evaluation takes the annotated area.)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mlc_ext import box_iou, centerness_target, paired_box_iou, segmented_spearman
from mlc_ext.detectors.data.loading.loader import build_loader
from mlc_ext.detectors.models.dense_detector import DenseDetector
from mlc_ext.detectors.models.targets import prepare_targets
from mlc_ext.detectors.runs.load import load_for_evaluation

AREAS = {"small": 0, "medium": 32**2, "large": 96**2}
"""The least area of each size, in pixels of the original image; COCO's limits."""
TOP_K, LEAST, LEVELS, POINTS = 50, 3, 2, 5
"""Predictions of an object; the least predictions of a level, levels and positive points of an object."""

KINDS = ("all", "within levels", "between levels")
PLACES = (
    "rho of IoU and centerness",
    "rho of IoU and score",
    "centerness of the best box",
    "highest centerness",
    "IoU of the highest score",
    "IoU of the most central",
    "best IoU",
    "mean IoU",
)
COUNTS = ("baseline", "cls kept", "cls new", "loc kept", "loc new")


class Counts:
    """Of one run: priors by (level, size of the gt), the correlations of its objects by size, and of FCOS the objects'
    values of each of PLACES."""

    def __init__(self, strides: Sequence[int]) -> None:
        self.levels = [f"P{stride.bit_length() - 1}" for stride in strides]
        self.priors = np.zeros((len(strides), len(AREAS), len(COUNTS)))
        self.rhos: dict[str, list[list[float]]] = {kind: [[] for _ in AREAS] for kind in KINDS}
        self.places: dict[str, list[float]] = {name: [] for name in PLACES}

    @torch.no_grad()
    def update(self, model: DenseDetector, images: Sequence[Tensor], targets: Sequence[dict]) -> None:
        """Adds a batch."""
        outputs, feature_sizes, image_sizes = model.head_outputs(images)
        prepared = prepare_targets(targets, len(images), images[0].device, model.num_classes)
        labeled = model.label(outputs, feature_sizes, prepared)
        task, gt = labeled.task, labeled.assignment.candidate_gt
        level = torch.repeat_interleave(
            *(torch.tensor(x) for x in zip(*enumerate(model.boxes(outputs, feature_sizes)[1]), strict=True))
        )
        size = torch.cat([_sizes(p["boxes"], _scale(t, i)) for p, t, i in zip(prepared, targets, images, strict=True)])
        baseline, of_cls, of_loc = task.baseline_positive, task.cls_labels > 0, task.loc_positive
        marks = (baseline, of_cls & baseline, of_cls & ~baseline, of_loc & baseline, of_loc & ~baseline)
        levels = level.repeat(len(images))
        for column, mark in enumerate(marks):
            np.add.at(self.priors[..., column], (levels[mark].numpy(), size[gt[mark]].numpy()), 1)
        predictions = model.raw_predictions(outputs, feature_sizes, image_sizes)
        if not model.class_agnostic and labeled.priors.shape[1] == 2:
            owners = torch.where(baseline, labeled.assignment.candidate_gt, -1).chunk(len(images))
            self._add_points(labeled.priors, owners, predictions, prepared)
        first = 0
        for prediction, target in zip(predictions, prepared, strict=True):
            labels = torch.ones_like(target["labels"]) if model.class_agnostic else target["labels"]
            for label in labels.unique():
                same = (labels == label).nonzero().flatten()
                iou, gt = box_iou(prediction["boxes"], target["boxes"][same]).max(1)
                for k, object_index in enumerate(same.tolist()):
                    rows = ((gt == k) & (iou > 0)).nonzero().flatten()
                    scores = prediction["scores"][rows, label - 1]
                    self._add_object(scores, iou[rows], level[rows], int(size[first + object_index]))
            first += len(target["boxes"])

    def _add_object(self, scores: Tensor, ious: Tensor, level: Tensor, size: int) -> None:
        """Of the predictions whose IoU is largest with this object among those of its class."""
        top = scores.argsort(descending=True, stable=True)[:TOP_K]
        scores, ious, level = scores[top], ious[top], level[top]
        self._add("all", size, scores, ious)
        count = torch.bincount(level)
        enough = count >= LEAST
        if enough.any():
            rho, _ = segmented_spearman(scores, ious, level, len(count))
            if len(defined := rho[enough & ~rho.isnan()]):
                self.rhos["within levels"][size].append(defined.mean().item())
        if int(enough.sum()) >= LEVELS:
            means = [torch.stack([x[level == k].mean() for k in enough.nonzero().flatten()]) for x in (scores, ious)]
            self._add("between levels", size, *means)

    def _add_points(
        self,
        points: Tensor,
        owners: Sequence[Tensor],
        predictions: Sequence[dict[str, Tensor]],
        targets: Sequence[dict[str, Tensor]],
    ) -> None:
        """``owners``: of each image, [points] the object of the batch whose baseline's positive a point is, or -1."""
        first = 0
        for owner, prediction, target in zip(owners, predictions, targets, strict=True):
            for k, (box, label) in enumerate(zip(target["boxes"], target["labels"], strict=True)):
                rows = (owner == first + k).nonzero().flatten()
                if len(rows) < POINTS:
                    continue
                centerness = centerness_target(torch.cat([points[rows] - box[:2], box[2:] - points[rows]], 1))
                ious = paired_box_iou(prediction["boxes"][rows], box.expand(len(rows), 4))
                scores = prediction["scores"][rows, label - 1]
                best, central = ious.argmax(), centerness.argmax()
                values = (
                    _rho(centerness, ious),
                    _rho(scores, ious),
                    *(x.item() for x in (centerness[best], centerness.max())),
                    *(x.item() for x in (ious[scores.argmax()], ious[central], ious[best], ious.mean())),
                )
                for name, value in zip(PLACES, values, strict=True):
                    self.places[name].append(value)
            first += len(target["boxes"])

    def _add(self, kind: str, size: int, scores: Tensor, ious: Tensor) -> None:
        if np.isfinite(rho := _rho(scores, ious)):
            self.rhos[kind][size].append(rho)


def _rho(scores: Tensor, ious: Tensor) -> float:
    return segmented_spearman(scores, ious, torch.zeros(len(scores), dtype=torch.int64), 1)[0].item()


def _scale(target: dict, image: Tensor) -> float:
    """Of an image, from its original pixels."""
    height, width = target["orig_size"]
    return ((image.shape[-2] / height) * (image.shape[-1] / width)) ** 0.5


def _sizes(boxes: Tensor, scale: float) -> Tensor:
    """[G] number of the size of each box, in AREAS."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1) / scale**2
    return torch.bucketize(area, torch.tensor([*AREAS.values()][1:]), right=True)


def analyze(run: Path, data: str | None, images: int | None) -> Counts:
    settings = [] if images is None else [f"data.limit_val={images}"]
    loaded = load_for_evaluation(run, data, "cpu", settings=settings)
    model = loaded.model.eval()
    counts = Counts(model.strides)
    for batch, targets in build_loader(loaded.dataset, 8, shuffle=False):
        counts.update(model, batch, targets)
    return counts


def spread(values: Sequence[float], form: str = "{:.1f}") -> str:
    """Mean and standard deviation of runs, of those where the value is defined."""
    values = [value for value in values if np.isfinite(value)]
    if not values:
        return "-"
    text = form.format(np.mean(values))
    return text if len(values) == 1 else f"{text} ± {form.format(np.std(values, ddof=1))}"


def label_table(found: Sequence[Counts]) -> list[str]:
    """Rows by level, then by size."""
    heading = ["priors of", "baseline's positives, %", "cls kept, %", "cls new", "loc kept, %", "loc new"]
    lines = [f"| {' | '.join(heading)} |", "|---|" + "--:|" * 5]

    def row(name: str, parts: Sequence[np.ndarray], totals: Sequence[float]) -> str:
        with np.errstate(invalid="ignore", divide="ignore"):
            share = [spread([100 * p[0] / total for p, total in zip(parts, totals, strict=True)])]
            share += [spread([100 * p[column] / p[0] for p in parts]) for column in range(1, len(COUNTS))]
        return f"| {name} | {' | '.join(share)} |"

    totals = [counts.priors[..., 0].sum() for counts in found]
    for level, name in enumerate(found[0].levels):
        lines.append(row(name, [counts.priors[level].sum(0) for counts in found], totals))
    for number, name in enumerate(AREAS):
        lines.append(row(f"{name} objects", [counts.priors[:, number].sum(0) for counts in found], totals))
    return [*lines, row("all", [counts.priors.sum((0, 1)) for counts in found], totals)]


def correlation_table(found: Sequence[Counts]) -> list[str]:
    lines = [f"| objects | {' | '.join(KINDS)} |", "|---|" + "--:|" * len(KINDS)]
    for number, name in [*enumerate(AREAS), (slice(None), "all")]:
        cells = []
        for kind in KINDS:
            chosen = [counts.rhos[kind][number] for counts in found]
            flat = [sum(part, []) if isinstance(number, slice) else part for part in chosen]
            cells.append(spread([_mean(part) for part in flat], "{:.3f}"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def place_table(found: Sequence[Counts]) -> list[str]:
    """Empty for a detector without points."""
    if not any(counts.places[PLACES[0]] for counts in found):
        return []
    means = {name: [_mean(counts.places[name]) for counts in found] for name in PLACES}
    return ["", "| positive points of an object | |", "|---|--:|",
            *(f"| {name} | {spread(values, '{:.3f}')} |" for name, values in means.items())]  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    """Of those that are defined; NaN without any."""
    values = [value for value in values if np.isfinite(value)]
    return float(np.mean(values)) if values else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="runs of one row, with several seeds")
    parser.add_argument("--data", help="COCO-format folder; default: that of the run")
    parser.add_argument("--images", type=int, metavar="N", help="of the validation set, the first; default: all")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [analyze(run, options.data, options.images) for run in options.runs]
    text = "\n".join([*label_table(found), "", *correlation_table(found), *place_table(found)]) + "\n"
    print(text, end="")
    if options.markdown is not None:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()
