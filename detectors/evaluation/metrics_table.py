"""Metrics as tables on the screen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

REPORTED = (
    ("AP", "AP"),
    ("AP50", "AP50"),
    ("AP75", "AP75"),
    ("APs", "APs"),
    ("APm", "APm"),
    ("APl", "APl"),
    ("AR@100", "AR@100"),
    ("AR@300", "AR@300"),
    ("AR@1000", "AR@1000"),
    ("correlation", "corr(gt)"),
    ("correlation_pooled", "corr(pooled)"),
)
"""Metrics as they are printed: key, heading."""


def shown(key: str, value: float | None, *, signed: bool = False) -> str:
    """A metric as it is printed: AP and AR in percent, as COCO prints them; "-" for what is undefined."""
    if value is None or not math.isfinite(value):
        return "-"
    sign = "+" if signed else ""
    text = f"{100 * value:{sign}.1f}" if key.startswith(("AP", "AR")) else f"{value:{sign}.3f}"
    return text.replace("-", sign) if float(text) == 0 else text  # no -0.0


def report(*columns: dict[str, float], names: tuple[str, ...] = ()) -> str:
    """Metrics as a table: a row a run, AP and AR in percent as COCO prints them."""
    reported = [(key, heading) for key, heading in REPORTED if any(key in metrics for metrics in columns)]
    header = " ".join(f"{heading:>12}" for _, heading in reported)
    width = max((len(name) for name in names), default=0) + 2
    lines = [f"{'':{width}}{header}" if names else header]
    for i, metrics in enumerate(columns):
        cells = [f"{shown(key, metrics.get(key)):>12}" for key, _ in reported]
        lines.append((f"{names[i]:{width}}" if names else "") + " ".join(cells))
    return "\n".join(lines)


def spread(runs: Mapping[str, Sequence[dict[str, float]]]) -> str:
    """Metrics of several seeds as a table: the mean and the standard deviation of each of ``runs``, and of the others'
    differences from the first one, seed by seed."""
    first, *others = runs.values()
    rows = {**runs}
    for name, other in zip(list(runs)[1:], others, strict=True):
        rows[f"{name} - {next(iter(runs))}"] = [
            {key: b[key] - a[key] for key in a.keys() & b.keys()} for a, b in zip(first, other, strict=True)
        ]
    reported = [(key, heading) for key, heading in REPORTED if any(key in metrics for metrics in first)]
    width = max(map(len, rows)) + 2
    lines = [f"{'':{width}}" + "  ".join(f"{heading:>14}" for _, heading in reported)]
    for row, (name, seeds) in enumerate(rows.items()):
        cells = []
        for key, _ in reported:
            values = [metrics.get(key, math.nan) for metrics in seeds]
            defined = all(map(math.isfinite, values))
            mean = shown(key, statistics.mean(values) if defined else None, signed=row >= len(runs))
            cells.append(f"{mean} +- {shown(key, statistics.stdev(values))}" if defined else "-")
        lines.append(f"{name:{width}}" + "  ".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)
