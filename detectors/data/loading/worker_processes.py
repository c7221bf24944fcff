"""Loader processes: their start and end, the error when one dies, and the longest wait for a batch."""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing.queues
import os
import signal
import threading
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
"""Seconds after which the DataLoader's wait for a batch expires (its ``timeout``); it is then waited for again."""
REPORT_AFTER, END_AFTER = 60.0, 1200.0
"""Seconds without a batch after which this is reported, and after which the run ends."""


def death_of_worker(error: Exception, exit_code: int | None = None) -> DataError | None:
    """A DataError for `error` if torch raised it because a loader's worker process died, else None.

    torch raises it in a signal handler, so anywhere in the main process, not only where batches are fetched.
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
    """The ``worker_init_fn`` of every loader."""
    torch.set_num_threads(1)  # workers are the parallelism
    # Ctrl-C and a scheduler's SIGTERM are sent to the workers too; only the main process ends them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_the_parent, args=(os.getppid(),), daemon=True).start()
    # without this, a batch that cannot be sent is lost and the main process waits for it; a dead worker is noticed
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(lambda *_: os._exit(_CANNOT_SEND))


def _end_with_the_parent(parent: int) -> None:
    """Ends this process at the SIGTERM that `parent` sends at its exit; ignores SIGTERM from other processes."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)  # as torch's own workers do: its handler of SIGCHLD would raise in the parent's exit


def batches(loader: DataLoader, reported: set[str]) -> Iterator[Any]:
    """The loader's batches, unpacked. ``reported`` contains the kinds of warnings already logged in this run.

    Raises:
        StarvedLoader: the system refuses open files or shared memory, or no batch came for ``END_AFTER`` seconds, in
            which time that the process was suspended does not count.
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


def end_workers(loader: DataLoader) -> None:
    """Ends the workers that ``loader`` keeps for another epoch, if there are any.

    Without this, an error in a worker can leave torch's iterator in a reference cycle. The garbage collector closes the
    iterator's queues before it deletes the iterator, so the workers are not asked to end, and torch waits five seconds
    for each of them before it terminates it.
    """
    if (iterator := getattr(loader, "_iterator", None)) is not None:
        _end_workers(iterator)


def _next(iterator: Iterator[Any], reported: set[str]) -> Any:
    for expired in itertools.count(1):
        try:
            return next(iterator)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out"):
                codes = [worker.exitcode for worker in getattr(iterator, "_workers", ())]
                if (died := death_of_worker(error, next(filter(None, codes), None))) is not None:
                    raise died from error
                raise
        except (OSError, EOFError) as error:  # what a worker had sent dies with it, if it was not fetched yet
            _end_workers(iterator)
            raise StarvedLoader.of(error) or lost_worker(f"{type(error).__name__}: {error}") from error
        thread = getattr(iterator, "_pin_memory_thread", None)
        if thread is not None and not thread.is_alive():
            raise StarvedLoader(f"the thread that receives batches ended; open files: {open_files()}")
        waited = expired * POLL  # not by a clock: a suspended process has not waited
        state = f"no batch came for {waited:.0f} s; {shared_memory()}; open files: {open_files()}"
        if waited >= END_AFTER:
            raise StarvedLoader(f"{state}. Use fewer data.workers, or none (data.workers=0)")
        if waited >= REPORT_AFTER:
            _report_once(reported, "waiting", state)


def _end_workers(iterator: Iterator[Any]) -> None:
    """Ends and joins the workers. Otherwise SIGCHLD for the dead one may arrive later, and torch's handler would
    raise at any place in the main process."""
    with contextlib.suppress(RuntimeError):  # from that handler
        getattr(iterator, "_shutdown_workers", lambda: None)()


def _report_once(reported: set[str], kind: str, line: str) -> None:
    if kind not in reported:
        reported.add(kind)
        _LOG.warning("%s", line)
