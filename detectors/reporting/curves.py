"""Curves over the training of runs, and over recall and IoU of their detections. One legend names the runs in all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..evaluation.curves import PrecisionCurves, RecallCurves
from ..evaluation.metrics_table import REPORTED, shown
from ..runs.history import Run
from ..runs.metrics_log import SHORT_NAMES
from .charts import Chart, drawing, legend_chart, legend_name, line_style, thinned

METRICS = (*REPORTED, ("labels_consensus", "label consensus"))
"""Metrics that are drawn over the epochs: key, heading."""

_BAR_NAME = 22
"""Characters of a run's name beside its bar."""


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
                    axes.plot(*thinned(x, y), linewidth=1.2, **line_style(k), marker="o" if len(x) == 1 else None)
            values = [value for _, y in curves for value in y]
            if min(values) > 0 and max(values) > 10 * min(values):
                axes.set_yscale("log")
            axes.set_xlim(left=0)
            axes.set(title=title, xlabel="epoch", ylabel="loss")
    return charts


def metric_charts(runs: Sequence[Run]) -> list[Chart]:
    """A chart of every reported metric over the epochs, or with bars where no run has been evaluated twice."""
    charts: list[Chart] = []
    for key, heading in METRICS:
        curves = [_curve((run.epoch(at), metrics.get(key)) for at, metrics in run.evaluated) for run in runs]
        if not any(x for x, _ in curves):
            continue
        percent = key.startswith(("AP", "AR"))
        name = "".join(c if c.isalnum() else "_" for c in key)
        if all(len(x) <= 1 for x, _ in curves):
            _bars(f"metric_{name}.png", key, heading, runs, [y for _, y in curves], charts)
            continue
        with drawing(f"metric_{name}.png", f"{heading} over epochs", charts) as axes:
            _mark_events(axes, runs)
            for k, (x, y) in enumerate(curves):
                if x:
                    axes.plot(
                        x,
                        [100 * value for value in y] if percent else y,
                        marker="o",
                        markersize=4,
                        linewidth=1.2,
                        **line_style(k),
                    )
            axes.set_xlim(left=0)
            if percent and axes.get_ylim()[0] < 0:
                axes.set_ylim(bottom=0)
            axes.set(title=heading, xlabel="epoch", ylabel=f"{heading} (%)" if percent else _unit(key))
    return charts


def _bars(
    file: str, key: str, heading: str, runs: Sequence[Run], values: Sequence[list[float]], charts: list[Chart]
) -> None:
    """A metric that each run has at most once."""
    percent = key.startswith(("AP", "AR"))
    rows = [k for k, each in enumerate(values) if each]
    lengths = [100 * values[k][0] if percent else values[k][0] for k in rows]
    with drawing(file, f"{heading} by run", charts, height=0.9 + 0.24 * len(rows)) as axes:
        bars = axes.barh(range(len(rows)), lengths, color=[line_style(k)["color"] for k in rows])
        axes.bar_label(bars, [shown(key, values[k][0]) for k in rows], padding=3, fontsize=8)
        axes.set_yticks(range(len(rows)), [legend_name(runs[k].name, _BAR_NAME) for k in rows], fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.25)
        axes.locator_params(axis="x", nbins=5)
        if percent:
            axes.set_xlim(0, max(1.0, 1.25 * max(lengths)))
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(title=heading, xlabel=f"{heading} (%)" if percent else _unit(key))


def precision_charts(found: Sequence[PrecisionCurves | None]) -> list[Chart]:
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
                    axes.plot(curves.recalls, curves.precision[row], **line_style(k))
            axes.set(title=title, xlabel="recall", ylabel="precision, mean over classes", xlim=(0, 1), ylim=(0, 1.02))
    with drawing("ap_by_iou.png", "AP by IoU threshold", charts) as axes:
        for k, curves in enumerate(found):
            if curves is not None:
                axes.plot(curves.ious, 100 * curves.ap, marker="o", markersize=3, **line_style(k))
        axes.set(title="AP by IoU threshold", xlabel="IoU threshold", ylabel="AP (%)")
        axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
    return charts


def recall_charts(found: Sequence[RecallCurves | None]) -> list[Chart]:
    """Recall of proposals over the IoU threshold, a chart for each count of proposals."""
    charts: list[Chart] = []
    counts = next((curves.counts for curves in found if curves is not None), [])
    for column, count in enumerate(counts):
        title = f"recall of {count} proposals an image"
        with drawing(f"recall_{count}.png", f"{title}, by IoU threshold", charts) as axes:
            for k, curves in enumerate(found):
                if curves is not None:
                    recall = curves.recall[:, column]
                    axes.plot(curves.ious, 100 * recall, marker="o", markersize=3, **line_style(k))
            axes.set(title=title, xlabel="IoU threshold", ylabel="recall (%)")
            axes.set_ylim(0, 102)
    return charts


def _curve(points) -> tuple[list[float], list[float]]:
    """(x, y) of the points with a finite y."""
    kept = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
    return [x for x, _ in kept], [y for _, y in kept]


_EVENTS = {
    "mutual labeling starts": {"color": "black", "linestyle": (0, (5, 2)), "linewidth": 1.2},
    "learning rate / 10": {"color": "#777777", "linestyle": (0, (1, 1.5)), "linewidth": 1.2},
}


def _events(runs: Sequence[Run]) -> list[tuple[str, list[float]]]:
    """The epochs of each kind of event, those of several runs once."""
    starts = sorted({run.mutual_start for run in runs} - {None})
    drops = sorted({epoch for run in runs for epoch in run.rate_drops})
    return [(name, epochs) for name, epochs in zip(_EVENTS, (starts, drops), strict=True) if epochs]


def _mark_events(axes, runs: Sequence[Run]) -> None:
    """Lines where mutual labeling starts and where the learning rate falls."""
    for name, epochs in _events(runs):
        for epoch in epochs:
            axes.axvline(epoch, **_EVENTS[name])


def legend_charts(runs: Sequence[Run]) -> list[Chart]:
    """The legend of all charts of this module."""
    named = [(legend_name(run.name), line_style(k)) for k, run in enumerate(runs)]
    return [legend_chart([*named, *((name, _EVENTS[name]) for name, _ in _events(runs))])]


def _unit(key: str) -> str:
    return "rank correlation" if key.startswith("correlation") else "share"
