"""The package's log and the file of a run that receives it."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from pathlib import Path

from .. import distributed
from .files import ENCODING

LOG = logging.getLogger("mlc_ext.detectors")


class _RunFile(logging.FileHandler):
    """The log file of a run, distinguished from the handlers that others have added."""

    def emit(self, record: logging.LogRecord) -> None:
        """As logging's own, which raises what opening the file raises: its folder may be gone by the first record."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Prints the first error of writing, such as a full disk, in a line; logging's own is a traceback a record."""
        if isinstance(error := sys.exc_info()[1], OSError) and not getattr(self, "_reported", False):
            self._reported = True
            print(f"{self.baseFilename}: {error}", file=sys.stderr)


class _Terminal(logging.Handler):
    """Prints warnings on stderr, only on rank 0. Errors are printed by the programs."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno != logging.WARNING or _rank() != 0 or _printed_by_root():
            return
        try:
            print(f"warning: {record.getMessage()}", file=sys.stderr, flush=True)
        except Exception:  # stderr is closed, for example; as logging's own handlers do
            self.handleError(record)


def _printed_by_root() -> bool:
    """Whether the root logger prints warnings on stderr too, as after ``logging.basicConfig()``."""
    handlers = logging.getLogger().handlers
    return any(getattr(each, "stream", None) is sys.stderr and each.level <= logging.WARNING for each in handlers)


def _rank() -> int:
    """This process's rank; before the process group exists, the one in torchrun's environment."""
    in_environment = os.environ.get("RANK", "0") if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "0"
    return distributed.rank() or int(in_environment)


def show_warnings() -> None:
    """Prints the warnings of the package's log on stderr, once, on rank 0. Every program calls it."""
    if not any(isinstance(handler, _Terminal) for handler in LOG.handlers):
        LOG.addHandler(_Terminal(logging.WARNING))


def hold_log() -> None:
    """Keeps the records that are logged before a run has its file; :func:`open_log` writes them there.

    For programs: an error before that is printed as one line, without the traceback that is logged with it.
    """
    if not any(isinstance(handler, logging.handlers.MemoryHandler) for handler in LOG.handlers):
        LOG.addHandler(logging.handlers.MemoryHandler(1000, flushLevel=logging.CRITICAL + 1))
        LOG.setLevel(logging.INFO)


def open_log(path: Path, level: int = logging.INFO) -> None:
    """Appends the package's log to ``path`` from now on, instead of to the file of the run before.

    Handlers of other kinds stay. With a ``level`` above INFO the file is made by the first record. Python prints
    warnings on stderr as long as no logger has a handler; in a process without other handlers they are still printed.
    """
    if not LOG.hasHandlers():
        show_warnings()
    for handler in list(LOG.handlers):
        if isinstance(handler, _RunFile):
            LOG.removeHandler(handler)
            handler.close()
    file = _RunFile(path, delay=level > logging.INFO, **ENCODING)
    file.setLevel(level)
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    for handler in list(LOG.handlers):
        if isinstance(handler, logging.handlers.MemoryHandler):
            LOG.removeHandler(handler)
            for record in handler.buffer:
                if record.levelno >= level:  # a target's level is not checked by MemoryHandler
                    file.handle(record)
            handler.close()
    LOG.addHandler(file)
    LOG.setLevel(logging.INFO)
