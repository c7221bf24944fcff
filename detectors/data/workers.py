"""Loader processes: how they start, how they end, and what is raised when one dies."""

from __future__ import annotations

import os
import signal
import threading

import torch


class DataError(RuntimeError):
    """The data cannot be loaded any more; the message is for the user."""


def death_of_worker(error: Exception) -> DataError | None:
    """`error` in plain words, if torch raised it because a loader's worker process died, else None.

    The main process learns of it by a signal, so it may be raised anywhere, not only where batches are fetched.
    """
    if not isinstance(error, RuntimeError) or not str(error).startswith("DataLoader worker"):
        return None
    return lost_worker(str(error).rstrip(". "))


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


def _end_with_the_parent(parent: int) -> None:
    """Ends this process at a SIGTERM that the process `parent` sent; passes over those of others."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(128 + signal.SIGTERM)
