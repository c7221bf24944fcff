"""Loader processes: how they start, how they end, and what is raised when one dies."""

from __future__ import annotations

import errno
import multiprocessing.queues
import os
import resource
import signal
import threading

import torch

_CANNOT_SEND = 74
"""Exit code of a worker whose batch could not be sent."""


class DataError(RuntimeError):
    """The data cannot be loaded any more; the message is for the user."""


class StarvedLoader(DataError):
    """The system refuses what loading needs: open files, shared memory."""

    @classmethod
    def of(cls, error: BaseException) -> StarvedLoader | None:
        """`error`, if it comes of a limit of the system and not of the data, else None."""
        number = getattr(error, "errno", None)
        if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in str(error):
            return cls(f"too many open files: {open_files()}. Raise the limit (ulimit -n) or use fewer data.workers")
        if number == errno.ENOSPC or "shared memory" in str(error):
            return cls(f"no shared memory is left: {shared_memory()}. Enlarge it (docker run --shm-size=8g) or use "
                       "fewer data.workers")  # fmt: skip
        return None


def open_files() -> str:
    """How many files this process has open, and its limit."""
    try:
        count = len(os.listdir("/proc/self/fd"))
    except OSError:  # not on this system, or at the limit itself
        count = None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"the limit is {limit}" + ("" if count is None else f", this process has {count}")


def shared_memory() -> str:
    """The size of the file system that shared memory lies in, and what is free of it."""
    try:
        system = os.statvfs("/dev/shm")
    except OSError:
        return "there is no /dev/shm"
    total, free = (blocks * system.f_frsize / 2**20 for blocks in (system.f_blocks, system.f_bavail))
    return f"/dev/shm has {total:.0f} MiB, {free:.0f} MiB are free"


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
