"""Curves over the training of runs, and over recall and IoU of their detections."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..evaluation.coco_metrics import PrecisionCurves, RecallCurves
from ..evaluation.metrics_table import REPORTED
from ..runs.history import Run
from ..runs.metrics_log import SHORT_NAMES
from .charts import Chart, drawing, legend_name, line_style, thinned

METRICS = (*REPORTED, ("labels_consensus", "label consensus"))
"""Metrics that are drawn over the epochs: key, heading."""


def loss_charts(runs: Sequence[Run]) -> list[Chart]:
    """A chart of every part of the loss over the epochs."""
    charts: list[Chart] = []
    for part in reversed(SHORT_NAMES):
        curves = [_curve((entry["epoch"], entry.get(part)) for entry in run.logged) for run in runs]
        if not any(x for x, _ in curves):
            continue
        title = "loss, the sum" if part == "loss" else f"loss: {part}"
        with drawing(f"loss_{part}.png" if part != "loss" else "loss.png", f"{title}, over epochs", charts) as axes:
            _mark_events(axes, runs)
            for k, (x, y) in enumerate(curves):
                if x:
                    axes.plot(*thinned(x, y), linewidth=1.2, label=legend_name(runs[k].name), **line_style(k))
            values = [value for _, y in curves for value in y]
            if min(values) > 0 and max(values) > 10 * min(values):
                axes.set_yscale("log")
            axes.set(title=title, xlabel="epoch", ylabel="loss")
    return charts


def metric_charts(runs: Sequence[Run]) -> list[Chart]:
    """A chart of every reported metric over the epochs."""
    charts: list[Chart] = []
    for key, heading in METRICS:
        curves = [_curve((run.epoch(at), metrics.get(key)) for at, metrics in run.evaluated) for run in runs]
        if not any(x for x, _ in curves):
            continue
        percent = key.startswith(("AP", "AR"))
        name = "".join(c if c.isalnum() else "_" for c in key)
        with drawing(f"metric_{name}.png", f"{heading} over epochs", charts) as axes:
            _mark_events(axes, runs)
            for k, (x, y) in enumerate(curves):
                if x:
                    shown = [100 * value for value in y] if percent else y
                    name = legend_name(runs[k].name)
                    axes.plot(x, shown, marker="o", markersize=4, linewidth=1.2, label=name, **line_style(k))
            axes.set_xlim(left=0)
            if percent and axes.get_ylim()[0] < 0:
                axes.set_ylim(bottom=0)
            axes.set(title=heading, xlabel="epoch", ylabel=f"{heading} (%)" if percent else _unit(key))
    return charts


def precision_charts(runs: Sequence[Run], found: Sequence[PrecisionCurves | None]) -> list[Chart]:
    """Precision over recall at IoU .5 and .75, and AP over the IoU threshold; None: a run without."""
    charts: list[Chart] = []
    if not any(found):
        return charts
    for iou in (0.5, 0.75):
        title = f"precision and recall at IoU {iou:g}"
        with drawing(f"precision_recall_{100 * iou:.0f}.png", title, charts) as axes:
            for k, curves in enumerate(found):
                if curves is not None:
                    (row,) = np.flatnonzero(np.isclose(curves.ious, iou))
                    name = f"{legend_name(runs[k].name)}: AP {_percent(curves.ap[row])}"
                    axes.plot(curves.recalls, curves.precision[row], label=name, **line_style(k))
            axes.set(title=title, xlabel="recall", ylabel="precision, mean over classes", xlim=(0, 1), ylim=(0, 1.02))
    with drawing("ap_by_iou.png", "AP by IoU threshold", charts) as axes:
        for k, curves in enumerate(found):
            if curves is not None:
                name = f"{legend_name(runs[k].name)}: mean {_percent(curves.ap.mean())}"
                axes.plot(curves.ious, 100 * curves.ap, marker="o", markersize=3, label=name, **line_style(k))
        axes.set(title="AP by IoU threshold", xlabel="IoU threshold", ylabel="AP (%)")
        axes.set_ylim(bottom=0)
    return charts


def recall_charts(runs: Sequence[Run], found: Sequence[RecallCurves | None]) -> list[Chart]:
    """Recall of proposals over the IoU threshold, a chart for each count of proposals."""
    charts: list[Chart] = []
    counts = next((curves.counts for curves in found if curves is not None), [])
    for column, count in enumerate(counts):
        title = f"recall of {count} proposals an image"
        with drawing(f"recall_{count}.png", f"{title}, by IoU threshold", charts) as axes:
            for k, curves in enumerate(found):
                if curves is not None:
                    recall = curves.recall[:, column]
                    name = f"{legend_name(runs[k].name)}: AR {_percent(recall.mean())}"
                    axes.plot(curves.ious, 100 * recall, marker="o", markersize=3, label=name, **line_style(k))
            axes.set(title=title, xlabel="IoU threshold", ylabel="recall (%)")
            axes.set_ylim(0, 102)
    return charts


def _curve(points) -> tuple[list[float], list[float]]:
    """(x, y) of the points with a finite y."""
    kept = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
    return [x for x, _ in kept], [y for _, y in kept]


def _mark_events(axes, runs: Sequence[Run]) -> None:
    """Lines where mutual labeling starts and where the learning rate falls, those of several runs once."""
    starts = sorted({run.mutual_start for run in runs} - {None})
    drops = sorted({epoch for run in runs for epoch in run.rate_drops})
    for epochs, name, style in (
        (starts, "mutual labeling starts", {"color": "black", "linestyle": (0, (5, 2))}),
        (drops, "learning rate / 10", {"color": "#777777", "linestyle": (0, (1, 1.5))}),
    ):
        for k, epoch in enumerate(epochs):
            axes.axvline(epoch, linewidth=1.2, label=None if k else name, **style)


def _unit(key: str) -> str:
    return "rank correlation" if key.startswith("correlation") else "share"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else "-"
