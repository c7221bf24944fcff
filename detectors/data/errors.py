"""Errors of the data, and of the system that loads them."""

from __future__ import annotations

import errno
import os
import resource


class ImageDecodeError(ValueError):
    """The bytes are not a complete image, or the image does not have the size that the annotations give."""


class DatasetNotFound(FileNotFoundError):
    """The files of a data set were not found. The message has several lines, which programs print as they are."""

    short = "data set not found"
    """The message in a line, without the places that were looked for."""


class DataError(RuntimeError):
    """The data cannot be loaded any more."""


class StarvedLoader(DataError):
    """The system has no open files or shared memory left for loading."""

    @classmethod
    def of(cls, error: BaseException) -> StarvedLoader | None:
        """``error`` as a StarvedLoader if it is caused by a system limit, else None."""
        number = getattr(error, "errno", None)
        if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in str(error):
            return cls(f"too many open files: {open_files()}. Raise the limit (ulimit -n) or use fewer data.workers")
        if number == errno.ENOSPC or "shared memory" in str(error):
            return cls(f"no shared memory is left: {shared_memory()}. Enlarge it (docker run --shm-size=8g) or use "
                       "fewer data.workers")  # fmt: skip
        return None


def open_files() -> str:
    """The limit of open files, and how many this process has."""
    try:
        count = len(os.listdir("/proc/self/fd"))
    except OSError:  # not on this system, or at the limit itself
        count = None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"the limit is {limit}" + ("" if count is None else f", this process has {count}")


def shared_memory() -> str:
    """The size of the file system of shared memory, and its free part."""
    try:
        system = os.statvfs("/dev/shm")
    except OSError:
        return "there is no /dev/shm"
    total, free = (blocks * system.f_frsize / 2**20 for blocks in (system.f_blocks, system.f_bavail))
    return f"/dev/shm has {total:.0f} MiB, {free:.0f} MiB are free"
