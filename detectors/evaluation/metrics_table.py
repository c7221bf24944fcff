"""Metrics as tables on the screen."""

from __future__ import annotations

import math

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
