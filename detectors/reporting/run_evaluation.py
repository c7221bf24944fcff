"""What a run's checkpoint does on its validation images: one pass over the data, kept in the page's terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlc_ext.divergence import Divergence

from ..evaluation.curves import PrecisionCurves, RecallCurves
from ..evaluation.explanation import Explanation, explain
from ..evaluation.metrics_table import REPORTED
from ..evaluation.stored import digest, measure_once
from ..runs.history import Run, comparable
from ..runs.load import load_for_evaluation
from .embedded_images import Pictures
from .gallery import Group, crop, find_groups
from .label_viewer import label_data

_VISIBLE = 0.0005
"""The least difference of a metric that a table shows."""


@dataclass
class Findings:
    """Of one checkpoint."""

    checkpoint: str
    """Name of its file."""
    iteration: int
    dataset: str
    """What it was measured on."""
    digest: str
    """Of the images, categories and objects that it was measured on."""
    metrics: dict[str, float]
    curves: PrecisionCurves | RecallCurves
    divergence: Divergence
    explanation: Explanation | None
    """None: proposals."""
    groups: list[tuple[Group, list[tuple[str, str, str]]]]
    """With (data URI, caption, file name) of each crop."""
    labels: dict[str, Any]
    """Of :func:`label_data`."""


def examine(
    run: Run,
    *,
    data: str | None,
    batch_size: int | None,
    device: str,
    images: int,
    pictures: Pictures,
    progress: bool,
) -> Findings:
    """Evaluates a run's best.pt, or without one its newest usable checkpoint, with ``images`` crops of every group and
    images of labels.

    Raises as :func:`load_for_evaluation` does.
    """
    loaded = load_for_evaluation(run.folder, data, device)
    model, dataset = loaded.model.eval(), loaded.dataset
    once = measure_once(loaded, batch_size, progress=progress)
    measured = once.measured
    names = ["object"] if model.class_agnostic else dataset.category_names
    by_category = dict(zip([1] if model.class_agnostic else dataset.label_to_category.values(), names, strict=True))
    groups = []
    for group in find_groups(measured.evaluator, images):
        crops = [(crop(case, dataset), case) for case in group.cases]
        groups.append(
            (
                group,
                [
                    (uri, case.caption(by_category), _file(dataset, case.image_id))
                    for uri, case in crops
                    if uri is not None
                ],
            )
        )
    return Findings(
        checkpoint=loaded.checkpoint.name,
        iteration=loaded.iteration,
        dataset=dataset.summary(),
        digest=digest(dataset.ground_truth()),
        metrics=measured.metrics(),
        curves=measured.evaluator.curves(),
        divergence=measured.divergence,
        explanation=None if model.class_agnostic else explain(measured.evaluator),
        groups=groups,
        labels=label_data(model, dataset, names, images, pictures),
    )


def take_metrics(run: Run, findings: Findings | None, data: str | None) -> None:
    """Chooses the metrics for the tables: those that the run recorded of the checkpoint, or those measured now where it
    recorded none or other data were asked for. What does not agree is noted."""
    run.validation = None if findings is None else findings.digest
    if findings is None:
        if data and run.metrics:
            run.metrics, run.source = {}, ""
            run.notes.append("its recorded metrics are of other data and are left out")
        return
    if data or not run.metrics:
        run.metrics = findings.metrics
        run.source = f"measured for this report, checkpoint of iteration {findings.iteration}"
        return
    if findings.iteration not in dict(run.evaluated):
        run.notes.append(
            f"the checkpoint is of iteration {findings.iteration}, the recorded metrics of iteration "
            f"{run.evaluated[-1][0]}: curves by recall and IoU, pairs, crops and labels are the checkpoint's"
        )
        return
    run.take_evaluation(findings.iteration)
    for key, _ in REPORTED:
        value = findings.metrics.get(key, math.nan)
        if abs(value - run.metrics.get(key, math.nan)) >= _VISIBLE:
            run.notes.append(
                f"{key} was recorded as {run.metrics[key]:.4f} and is now measured as {value:.4f}: other data, device "
                "or versions"
            )
            return


def note_other_data(runs: Sequence[Run]) -> None:
    """Notes the runs whose metrics are of another validation set than the first run's."""
    for run in runs[1:]:
        if not comparable(runs[0], run):
            run.notes.append(f"evaluated on another validation set than {runs[0].name}: no differences are shown")


def _file(dataset, image_id: int) -> str:
    return dataset.image_path(dataset.image_ids.index(image_id)).name
