"""Loader processes: how they start and end, what is raised when one dies, and how long a batch is waited for."""

from __future__ import annotations

import logging
import multiprocessing.queues
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..errors import DataError, StarvedLoader, open_files, shared_memory
from .shared_batch import Packed

_LOG = logging.getLogger(__name__)

_CANNOT_SEND = 74
"""Exit code of a worker whose batch could not be sent."""

POLL = 5.0
"""Seconds that the DataLoader waits before it reports (its ``timeout``)."""
REPORT_AFTER, END_AFTER = 60.0, 1200.0
"""Seconds without a batch after which this is reported, and after which the run ends."""


def death_of_worker(error: Exception, exit_code: int | None = None) -> DataError | None:
    """`error` in plain words, if torch raised it because a loader's worker process died, else None.

    The main process learns of it by a signal, so it may be raised anywhere, not only where batches are fetched.
    """
    text = str(error)
    if not isinstance(error, RuntimeError) or not text.startswith(("DataLoader worker", "Pin memory", "Too many open")):
        return None
    if exit_code == _CANNOT_SEND or f"exit code {_CANNOT_SEND}." in text:
        return StarvedLoader(f"a worker could not send a batch: {shared_memory()}; open files: {open_files()}")
    return StarvedLoader.of(error) or lost_worker(text.rstrip(". "))


def lost_worker(how: str) -> DataError:
    return DataError(
        f"a process that loads data died ({how}). Killed processes are often out of memory: use fewer data.workers, or "
        "none (data.workers=0) to see an error of the process itself"
    )


def start_worker(worker_id: int) -> None:
    """What each worker process begins with."""
    torch.set_num_threads(1)  # workers are the parallelism
    # Ctrl-C, and a scheduler's SIGTERM, reach the workers too: the main process decides when they end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_the_parent, args=(os.getppid(),), daemon=True).start()
    # a batch that cannot be sent is lost and would be waited for for ever; an ended worker is noticed
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(lambda *_: os._exit(_CANNOT_SEND))


def _end_with_the_parent(parent: int) -> None:
    """Ends this process at a SIGTERM that the process `parent` sent, at its own exit; passes over those of others."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)  # as torch's own workers do: its handler of SIGCHLD would raise in the parent's exit


def batches(loader: DataLoader, reported: set[str]) -> Iterator[Any]:
    """The loader's batches, unpacked. ``reported`` keeps the kinds of what was reported, over the passes of one
    run.

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
                line = f"shared memory fails, batches go through slower pipes ({batch.problem}): {state}"
                _report_once(reported, "shared memory", line)
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
        if waited >= REPORT_AFTER:
            _report_once(reported, "waiting", state)


def _report_once(reported: set[str], kind: str, line: str) -> None:
    if kind not in reported:
        reported.add(kind)
        _LOG.warning("%s", line)
