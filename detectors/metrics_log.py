"""What a run reports: one JSON object a line in a file, and tables on the screen."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

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


class MetricsLog:
    """The run's history: ``entries`` in memory, which checkpoints carry, and the same as lines of a file.

    The file is written anew from the entries when a run starts or goes on, then only appended to: what a killed run
    had logged past its checkpoint would come twice.

    Args:
        path: of the file; None writes none (all ranks but one).
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.entries: list[dict] = []

    def start(self) -> None:
        """Makes the file hold the entries, all or nothing."""
        if self.path is None:
            return
        write_whole(self.path, "".join(map(_line, self.entries)))

    def add(self, entry: dict) -> None:
        self.entries.append(entry)
        if self.path is not None:
            with open(self.path, "a") as file:
                file.write(_line(entry))


def _line(entry: dict) -> str:
    return json.dumps(plain(entry), allow_nan=False) + "\n"


def write_whole(path: Path, text: str) -> None:
    """Writes beside ``path`` and renames: a reader, or a kill, never meets half a file."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    os.replace(temporary, path)


def plain(value: object) -> object:
    """JSON has neither NaN nor infinity: null."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown(key: str, value: float | None, *, signed: bool = False) -> str:
    """A metric as it is printed: AP and AR in percent, as COCO prints them; "-" for what is undefined."""
    if value is None or not math.isfinite(value):
        return "-"
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f}" if key.startswith(("AP", "AR")) else f"{value:{sign}.3f}"


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
