"""Waiting for a batch: what a DataLoader raises becomes an error of the data, and no wait is without end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from .messages import report_line
from .packing import Packed
from .workers import StarvedLoader, death_of_worker, lost_worker, open_files, shared_memory

POLL = 5.0
"""Seconds that the DataLoader waits before it reports (its ``timeout``)."""
TELL_AFTER, END_AFTER = 60.0, 1200.0
"""Seconds without a batch after which this is reported, and after which the run ends."""


def batches(loader: DataLoader, reported: set[str]) -> Iterator[Any]:
    """The loader's batches, unpacked. ``reported`` keeps what was reported, over the passes of one run.

    Raises:
        StarvedLoader: the system refuses open files or shared memory, or no batch came for ``END_AFTER`` seconds.
        DataError: a worker died.
    """
    try:
        iterator = iter(loader)
    except OSError as error:
        raise StarvedLoader.of(error) or StarvedLoader(f"the processes that load data cannot start: {error}") from error
    while True:
        try:
            batch = _next(iterator, reported)
        except StopIteration:
            return
        if isinstance(batch, Packed):
            if batch.problem is not None:
                state = f"{shared_memory()}; open files: {open_files()}"
                _report_once(
                    reported, f"shared memory fails, batches go through slower pipes ({batch.problem}): {state}"
                )
            batch = batch.unpack()
        yield batch


def _next(iterator: Iterator[Any], reported: set[str]) -> Any:
    began = time.monotonic()
    while True:
        try:
            return next(iterator)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out"):
                codes = [worker.exitcode for worker in getattr(iterator, "_workers", ())]
                if (died := death_of_worker(error, next(filter(None, codes), None))) is not None:
                    raise died from error
                raise
        except (OSError, EOFError) as error:  # what a worker had sent dies with it, if it was not fetched yet
            raise StarvedLoader.of(error) or lost_worker(f"{type(error).__name__}: {error}") from error
        thread = getattr(iterator, "_pin_memory_thread", None)
        if thread is not None and not thread.is_alive():
            raise StarvedLoader(f"the thread that receives batches ended; open files: {open_files()}")
        waited = time.monotonic() - began
        state = f"no batch came for {waited:.0f} s; {shared_memory()}; open files: {open_files()}"
        if waited >= END_AFTER:
            raise StarvedLoader(f"{state}. Use fewer data.workers, or none (data.workers=0)")
        if waited >= TELL_AFTER:
            _report_once(reported, state)


def _report_once(reported: set[str], line: str) -> None:
    if (kind := line[:12]) not in reported:
        reported.add(kind)
        report_line(line)
