"""The history of a run: a file with one JSON object per line."""

from __future__ import annotations

import json
from pathlib import Path

from .files import ENCODING, plain, write_whole, writing


class MetricsLog:
    """The history of a run: ``entries`` in memory, which checkpoints contain, and the same as lines of a file.

    The file is rewritten from the entries when a run starts or resumes, then only appended to. Otherwise entries that a
    killed run had logged after its checkpoint would appear twice.

    Args:
        path: of the file; None (all ranks but one) writes no file.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.entries: list[dict] = []

    def start(self) -> None:
        """Rewrites the file from the entries, atomically."""
        if self.path is not None:
            write_whole(self.path, "".join(map(_line, self.entries)))

    def add(self, entry: dict) -> None:
        self.entries.append(entry)
        if self.path is not None:
            with writing(self.path), open(self.path, "a", **ENCODING) as file:
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
"""Losses and their names in the progress bar."""
