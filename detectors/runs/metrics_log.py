"""A run's history: one JSON object a line in a file."""

from __future__ import annotations

import json
from pathlib import Path

from .files import plain, write_whole, writing


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
            with writing(self.path), open(self.path, "a") as file:
                file.write(_line(entry))


def _line(entry: dict) -> str:
    return json.dumps(plain(entry), allow_nan=False) + "\n"


SHORT_NAMES = {
    "classification": "cls",
    "bbox_regression": "box",
    "bbox_ctrness": "ctr",
    "iou_rescoring": "iou",
    "prediction_alignment": "align",
    "loss": "loss",
}
"""Losses as the progress bar shows them."""
