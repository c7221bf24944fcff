"""The package's log and the file of a run that receives it."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from pathlib import Path

from .files import ENCODING

LOG = logging.getLogger("mlc_ext.detectors")


class _RunFile(logging.FileHandler):
    """The log file of a run, distinguished from the handlers that others have added."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Prints the first error of writing, such as a full disk, in a line; logging's own is a traceback a record."""
        if isinstance(error := sys.exc_info()[1], OSError) and not getattr(self, "_reported", False):
            self._reported = True
            print(f"{self.baseFilename}: {error}", file=sys.stderr)


def hold_log() -> None:
    """Keeps the records that are logged before a run has its file; :func:`open_log` writes them there.

    For programs: an error before that is printed as one line, without the traceback that is logged with it.
    """
    if not any(isinstance(handler, logging.handlers.MemoryHandler) for handler in LOG.handlers):
        LOG.addHandler(logging.handlers.MemoryHandler(1000, flushLevel=logging.CRITICAL + 1))


def open_log(path: Path, level: int = logging.INFO) -> None:
    """Appends the package's log to ``path`` from now on, instead of to the file of the run before.

    Handlers of other kinds stay. With a ``level`` above INFO the file is made by the first record.
    """
    for handler in list(LOG.handlers):
        if isinstance(handler, _RunFile):
            LOG.removeHandler(handler)
            handler.close()
    file = _RunFile(path, delay=level > logging.INFO, **ENCODING)
    file.setLevel(level)
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    for handler in list(LOG.handlers):
        if isinstance(handler, logging.handlers.MemoryHandler):
            handler.setTarget(file)
            handler.close()
            LOG.removeHandler(handler)
    LOG.addHandler(file)
    LOG.setLevel(logging.INFO)
