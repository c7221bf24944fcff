"""Output files: checked before the work begins, written atomically, as standard JSON."""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Iterator
from pathlib import Path


def check_writable(path: Path) -> None:
    """Makes the folder of an output file and writes to it on trial, before the work whose result it receives.

    OSError, naming the file: a folder stands in its place, or its folder cannot be made or written to (read-only, full,
    too long a name). The file itself stays as it is.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from error
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if _is_device(path):
            return
        temporary = _temporary(path)
        try:
            temporary.write_bytes(bytes(4096))  # an empty file fits on a full disk
        finally:
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Writes a temporary file and renames it to ``path``, which is never an incomplete file.

    OSError names ``path``; the file that was there stays, and nothing is left beside it. A pipe or a device, such as
    /dev/null, is written to and stays what it is.
    """
    with writing(path):
        if _is_device(path):
            path.write_text(text)
            return
        temporary = _temporary(path)
        try:
            temporary.write_text(text)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within, an OSError names ``path``: that of a full disk names no file, others the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error


def _temporary(path: Path) -> Path:
    """Of this process: another one that writes the same file does not meet it."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def plain(value: object) -> object:
    """``value`` with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
