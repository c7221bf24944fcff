"""Warnings that the user must see."""

from __future__ import annotations

import logging
import sys

from .. import distributed

_LOG = logging.getLogger(__name__)


def report_line(line: str) -> None:
    """Logs a warning, and on rank 0 prints it on stderr."""
    _LOG.warning("%s", line)
    if _LOG.hasHandlers() and distributed.is_main():  # without handlers Python has printed it already
        print(f"warning: {line}", file=sys.stderr, flush=True)
