"""One run at a time in a folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path

NAME = ".lock"

_held: dict[str, tuple[int, int]] = {}
"""Of this process: the lock file -> (descriptor, how many hold it)."""


def _forked() -> None:
    """A process that loads images must not hold the lock of a run that was killed."""
    while _held:
        os.close(_held.popitem()[1][0])


os.register_at_fork(after_in_child=_forked)


class FolderLock:
    """A lock on a run's folder against other processes, on this machine or, on a shared file system, on another.

    The system holds it (``flock``) and drops it when the process ends, however it ends: a dead process holds no lock.
    The file ``.lock`` names the owner for those who are refused. A file system that cannot lock is used without.
    """

    def __init__(self, folder: Path) -> None:
        self.path = str(Path(folder).resolve() / NAME)
        self.owned = False

    def acquire(self) -> str | None:
        """-> a warning, if the folder cannot be locked. ValueError, naming host and process, if another run has it."""
        if self.owned:
            return None
        if self.path in _held:
            descriptor, holders = _held[self.path]
            _held[self.path] = descriptor, holders + 1
            self.owned = True
            return None
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _is_at(descriptor, self.path):  # its owner has just removed it
                    os.close(descriptor)
                    continue
            except BlockingIOError:
                owner = os.pread(descriptor, 4096, 0)
                os.close(descriptor)
                raise ValueError(
                    f"{Path(self.path).parent} is in use by another run ({_described(owner)}): wait for its end, or "
                    "choose another folder (--out)"
                ) from None
            except OSError as error:
                os.close(descriptor)
                return f"{Path(self.path).parent} cannot be locked against other runs: {error.strerror}"
            break
        owner = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        _held[self.path] = descriptor, 1
        self.owned = True
        return None

    def release(self) -> None:
        """Removes the file and gives the lock back, unless this process holds it for another run too."""
        if not self.owned:
            return
        self.owned = False
        descriptor, holders = _held.pop(self.path)
        if holders > 1:
            _held[self.path] = descriptor, holders - 1
            return
        if _is_at(descriptor, self.path):
            os.unlink(self.path)
        os.close(descriptor)


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _described(owner: bytes) -> str:
    try:
        entry = json.loads(owner)
        return f"process {entry['process']} on {entry['host']} since {entry['since']}"
    except (ValueError, KeyError, TypeError):  # it has not written it yet
        return "its process is not known"
