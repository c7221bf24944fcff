"""Pictures of what the tables do not show: the course over the epochs, labels that flip, AP by IoU threshold."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from _pictures import save

from .bootstrap import IOUS
from .rows import ROWS, STEMS, baseline
from .tables import Found

COLORS = ("#000000", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
"""Okabe and Ito's, which color-blind readers can distinguish."""
NAMES = {"fcos-": "FCOS-", "retinanet": "RetinaNet", "rpn": "RPN"}


def draw_all(plt, found: Found, folder: Path) -> list[Path]:
    """Writes the pictures that there are figures for; ``plt`` is matplotlib.pyplot."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, draw in (("epochs", draw_epochs), ("labels", draw_labels), ("ap_by_iou", draw_ap_by_iou)):
        figure = draw(plt, found)
        if figure is not None:
            drawn.append(folder / f"{name}.png")
            save(plt, figure, drawn[-1])
    return drawn


def history(found: Found, row: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """-> (epochs [n], [seeds, n] values) of a row's evaluations; NaN where a metric is not defined."""
    epochs, values = [], []
    for part in found.parts[row]:
        entries = json.loads((part.out / "metrics.json").read_text())["history"]
        entries = [entry for entry in entries if "metrics" in entry]
        of_run = {entry["iteration"]: entry["metrics"].get(metric) for entry in entries}  # a last one comes once
        epochs = part.config.schedule.epochs * np.array(list(of_run)) / max(of_run)
        values.append([math.nan if value is None else value for value in of_run.values()])
    return np.array(epochs), np.array(values)


def _trained(found: Found) -> dict[str, list[str]]:
    """{baseline: its rows of the paper that were trained}, the baseline first; only those that are done."""
    groups: dict[str, list[str]] = {}
    for row in found.parts:
        if ROWS[row].paper and ROWS[row].tested_from is None and baseline(row) in found.parts:
            groups.setdefault(baseline(row), []).append(row)
    return {base: sorted(rows, key=list(ROWS).index) for base, rows in groups.items()}


def _grid(plt, groups: Sequence[str], headings: Sequence[str]):
    figure, axes = plt.subplots(
        len(headings), len(groups), figsize=(1 + 3.9 * len(groups), 2.7 * len(headings)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for k, base in enumerate(groups):
        axes[0][k].set_title(NAMES[STEMS[ROWS[base].stem].detector])
        axes[-1][k].set_xlabel("epoch")
        for j, heading in enumerate(headings):
            axes[j][k].set_ylabel(heading)
            axes[j][k].grid(alpha=0.3)
    return figure, axes


def _curve(ax, found: Found, row: str, metric: str, label: str, color: str, *, dashed: bool = False) -> None:
    """The mean over seeds, and between which values they lie; a dashed one is not in the legend."""
    epochs, values = history(found, row, metric)
    if np.isnan(values).all():
        return
    values = values * (100 if metric.startswith("A") else 1)
    style = {"ls": "--"} if dashed else {"ls": "-", "label": label}
    ax.plot(epochs, values.mean(axis=0), color=color, marker="o", ms=3, **style)
    if len(values) > 1:
        ax.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=color, alpha=0.12, lw=0)


def _switch(ax, found: Found, row: str) -> None:
    ax.axvline(found.parts[row][0].config.mlc.start_epoch, color="gray", lw=1, ls=":")


def draw_epochs(plt, found: Found):
    groups = _trained(found)
    if not groups:
        return None
    figure, axes = _grid(plt, list(groups), ["AP (RPN: AR@100), %", "correlation per gt", "correlation pooled"])
    for k, (base, rows) in enumerate(groups.items()):
        main = "AR@100" if STEMS[ROWS[base].stem].detector == "rpn" else "AP"
        for j, metric in enumerate((main, "correlation", "correlation_pooled")):
            for row, color in zip(rows, COLORS, strict=False):
                _curve(axes[j][k], found, row, metric, ROWS[row].name, color)
            _switch(axes[j][k], found, base)
        axes[0][k].legend(fontsize=7, framealpha=0.5)
    figure.suptitle("Course of training (dotted: the method is switched on; bands: range over seeds)", fontsize=10)
    return figure


def draw_labels(plt, found: Found):
    """Mutual labels for the predictions of the baseline (dashed) and of the row trained with it."""
    groups = {base: [row for row in (base, f"{base}_ml") if row in rows] for base, rows in _trained(found).items()}
    groups = {base: rows for base, rows in groups.items() if _has_labels(found, base)}
    if not groups:
        return None
    figure, axes = _grid(
        plt, list(groups), ["flipped labels / candidates", "consensus of both tasks", "mean IoU of the boxes"]
    )
    for k, (base, rows) in enumerate(groups.items()):
        for row in rows:
            dashed = row == base
            for task, color in (("cls", COLORS[1]), ("loc", COLORS[2])):
                _curve(axes[0][k], found, row, f"labels_flipped_{task}", task, color, dashed=dashed)
            _curve(axes[1][k], found, row, "labels_consensus", "shared / all positives", COLORS[3], dashed=dashed)
            shown = (("labels_iou_baseline", "baseline's positives", COLORS[0]),
                     ("labels_iou_gained_cls", "cls: made positive", COLORS[5]),
                     ("labels_iou_lost_cls", "cls: made negative", COLORS[6]))  # fmt: skip
            for metric, label, color in shown:
                _curve(axes[2][k], found, row, metric, label, color, dashed=dashed)
        for j in range(3):
            _switch(axes[j][k], found, base)
            if axes[j][k].get_legend_handles_labels()[0]:  # none if no label was flipped
                axes[j][k].legend(fontsize=6.5, framealpha=0.5)
    figure.suptitle("Mutual labels against the baseline's (dashed: of the detector trained without them)", fontsize=10)
    return figure


def _has_labels(found: Found, row: str) -> bool:
    return any("labels_consensus" in metrics for metrics in found.metrics[row])


def draw_ap_by_iou(plt, found: Found):
    """AP of each row less its baseline's at every IoU threshold; for RPN, of the recall among 100."""
    groups = {base: rows for base, rows in _trained(found).items() if len(rows) > 1}
    if not groups:
        return None
    figure, axes = _grid(plt, list(groups), ["AP (RPN: AR@100)\nless the baseline's, points"])
    for k, (base, rows) in enumerate(groups.items()):
        proposals = STEMS[ROWS[base].stem].detector == "rpn"
        curves = {row: _by_threshold(found, row, (lambda m: m.ar(100)[0]) if proposals else (lambda m: m.ap()[0]))
                  for row in rows}  # fmt: skip
        for row, color in zip(rows[1:], COLORS[1:], strict=False):
            seeds = min(len(curves[row]), len(curves[base]))
            gains = 100 * (curves[row][:seeds] - curves[base][:seeds])
            axes[0][k].plot(IOUS, gains.mean(axis=0), marker="o", ms=3, color=color, label=ROWS[row].name)
            if seeds > 1:
                axes[0][k].fill_between(IOUS, gains.min(axis=0), gains.max(axis=0), color=color, alpha=0.12, lw=0)
        axes[0][k].axhline(0, color="black", lw=0.8)
        axes[0][k].set_xlabel("IoU threshold")
        axes[0][k].legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)  # clear of the curves
    figure.set_size_inches(1 + 3.9 * len(groups), 4.1)
    return figure


def _by_threshold(found: Found, row: str, values: Callable) -> np.ndarray:
    """[seeds, T]."""
    return np.array([values(matches) for matches in found.matches(row)])
