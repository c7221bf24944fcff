"""Charts of an evaluation in detail: kinds of errors, AP by class, confusion, and curves by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..evaluation.confusion import BACKGROUND, Confusion
from ..evaluation.curves import ClassCurves
from ..evaluation.error_shares import KINDS
from ..evaluation.explanation import Explanation, class_precision
from .charts import COLORS, Chart, drawing, legend_name, line_style

_CLASSES = 20
"""Classes in the chart of AP, those of most objects."""
_NUMBERED, _NAMED = 10, 24
"""Classes up to which the matrix has counts in its cells, and names at its sides."""
_SHADES = "Blues"
"""The colors of the matrix, from 0 to 1."""
_ENDS = 3
"""Classes of the largest and of the smallest AP50 that are named among many curves."""


def error_charts(found: Sequence[Explanation | None]) -> list[Chart]:
    """dAP50 of every kind of error, and AP by class, with bars of the runs side by side; None: a run without."""
    charts: list[Chart] = []
    known = [(k, each) for k, each in enumerate(found) if each is not None]
    if not known:
        return charts
    with drawing(
        "errors.png", "AP50 that every kind of error costs", charts, height=_height(len(KINDS), known)
    ) as axes:
        gains = [[100 * each.errors.kinds[name].gain for name in KINDS] for _, each in known]
        _grouped(axes, list(KINDS), [k for k, _ in known], gains)
        axes.set(title="AP50 lost by kind of error", xlabel="dAP50 (%)")
    objects = {each.name: each.objects for _, found in reversed(known) for each in found.classes}
    names = sorted(sorted(objects, key=lambda name: -objects[name])[:_CLASSES], key=list(objects).index)
    title = "AP by class" if len(names) == len(objects) else f"AP, the {len(names)} classes of most objects"
    with drawing("classes.png", title, charts, height=_height(len(names), known)) as axes:
        values = [{each.name: 100 * each.AP for each in found.classes} for _, found in known]
        lengths = [[each.get(name, np.nan) for name in names] for each in values]
        _grouped(axes, [legend_name(name, 18) for name in names], [k for k, _ in known], lengths)
        axes.set(title=title, xlabel="AP (%)")
    return charts


def _height(rows: int, known: Sequence) -> float:
    return 0.9 + rows * max(0.2, 0.11 * len(known))


def _grouped(axes, names: Sequence[str], numbers: Sequence[int], lengths: Sequence[Sequence[float]]) -> None:
    """Horizontal bars: a row for each of ``names``, in it a bar of each of the runs ``numbers``."""
    thick = 0.8 / len(numbers)
    for place, (number, values) in enumerate(zip(numbers, lengths, strict=True)):
        at = np.arange(len(names)) + (place - (len(numbers) - 1) / 2) * thick
        axes.barh(at, np.nan_to_num(np.asarray(values, dtype=float)), thick, color=line_style(number)["color"])
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlim(0, max(1.0, axes.get_xlim()[1]))  # 0 is at the left, also of bars without length
    axes.invert_yaxis()
    axes.margins(y=0.02)


def class_charts(found: Explanation, number: int) -> list[Chart]:
    """Precision and recall of every class, and the confusion matrix, of run ``number``."""
    charts: list[Chart] = []
    _precision(found.curves, [each.name for each in found.classes], number, charts)
    _matrix(found.confusion, number, charts)
    return charts


def _precision(curves: ClassCurves, names: Sequence[str], number: int, charts: list[Chart]) -> None:
    precision = class_precision(curves, 0.5)
    ap = precision.mean(0)
    known = [int(k) for k in np.argsort(-ap, kind="stable") if np.isfinite(ap[k])]
    named = known if len(known) <= len(COLORS) else [*known[:_ENDS], *known[-_ENDS:]]
    title = "precision and recall at IoU 0.5, by class"
    with drawing(f"classes_precision_{number}.png", title, charts) as axes:
        for k in known:
            if k not in named:
                axes.plot(curves.recalls, precision[:, k], color="#bbbbbb", linewidth=0.6)
        for place, k in enumerate(named):
            label = f"{legend_name(names[k])}: AP50 {100 * ap[k]:.1f}"
            axes.plot(curves.recalls, precision[:, k], color=COLORS[place], label=label, linewidth=1.3)
        axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))


def _ink(share: float) -> str:
    """The color of the text on a cell of :data:`_SHADES`: where both are alike, each has a contrast of 4."""
    return "white" if share > 0.7 else "black"


def _matrix(found: Confusion, number: int, charts: list[Chart]) -> None:
    names = [legend_name(name, 14) for name in [*found.names, BACKGROUND]]
    total = found.matrix.sum(1, keepdims=True)
    share = found.matrix / np.maximum(total, 1)
    few = len(found.names) <= _NUMBERED
    title = f"confusion: score > {found.score_threshold:g}, IoU >= {found.iou:g}"
    height = 4.2 if len(found.names) > 4 else 3.2
    with drawing(f"confusion_{number}.png", title, charts, height=height, grid=False) as axes:
        axes.imshow(share, cmap=_SHADES, vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        if len(found.names) <= _NAMED:
            size = 8 if few else 6
            axes.set_xticks(range(len(names)), names, rotation=45 if few else 90, ha="right" if few else "center",
                            rotation_mode="anchor" if few else "default", fontsize=size)  # fmt: skip
            axes.set_yticks(range(len(names)), names, fontsize=size)
        for (row, column), count in np.ndenumerate(found.matrix) if few else ():
            if count:
                axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=_ink(share[row, column]))
        axes.set(title=title, xlabel="detected as", ylabel="object")
        if len(found.names) > _NAMED:
            axes.set(xlabel="detected as (the last: background)", ylabel="object, in the order of the table")
