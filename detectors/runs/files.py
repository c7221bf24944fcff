"""Output files: checked before the work begins, written atomically in UTF-8, as standard JSON."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

ENCODING = {"encoding": "utf-8", "errors": "backslashreplace"}
"""Of all text files, whatever the locale; file names that are not UTF-8 are escaped."""

_MAX_LINKS = 40
_NAME_BYTES = 200
"""Kept of a file's name in that of its temporary file: file systems limit a name to 255 bytes."""


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
        target = _target(path)
        if _is_device(target):
            os.stat(target)  # a descriptor that is not open
            return
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        temporary = _temporary(target)
        try:
            temporary.write_bytes(bytes(4096))  # an empty file fits on a full disk
        finally:
            temporary.unlink(missing_ok=True)


def check_distinct(files: dict[str, Path]) -> None:
    """ValueError for an output in the place of an input or of another output. Devices may be given several times."""
    places: dict[str, str] = {}
    for name, path in files.items():
        place = os.path.realpath(path)
        if os.path.exists(place) and not os.path.isfile(place):
            continue
        if name.startswith("--") and place in places:
            raise ValueError(f"{name} and {places[place]} are the same file, {path}")
        places[place] = name


def write_whole(path: Path, text: str) -> None:
    """Writes ``text`` by :func:`replacing`: ``path`` is never an incomplete file.

    OSError names ``path``; the file that was there stays, and nothing is left beside it. A link stays a link: the file
    that it leads to is replaced. A pipe, a device such as /dev/null, and a descriptor such as /dev/stdout are written
    to and stay what they are.
    """
    with writing(path):
        target = _target(path)
        if _is_device(target):
            own = target.parent == Path(f"/proc/{os.getpid()}/fd")  # whose place in the file others continue from
            with open(os.dup(int(target.name)) if own else target, "a", **ENCODING) as file:
                file.write(text)
            return
        with replacing(target) as file:
            file.write(text.encode(**ENCODING))


@contextlib.contextmanager
def replacing(path: Path, before_rename: Callable[[], None] | None = None) -> Iterator[BinaryIO]:
    """Within, the temporary file to write; then it is flushed to the disk and renamed to ``path``.

    After a kill or a power cut ``path`` is the old or the new file. After an error it is the old one, and the temporary
    file is removed.

    Args:
        before_rename: called when the new file is on the disk.
    """
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if before_rename is not None:
            before_rename()
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Flushes the names of a folder's files to the disk; some file systems do not offer it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within, an OSError names ``path``: that of a full disk names no file, others the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error


def _target(path: Path) -> Path:
    """What is written for ``path``: its links are followed, but not that from a descriptor to its file."""
    for _ in range(_MAX_LINKS):
        path = Path(os.path.realpath(path.parent), path.name)
        try:
            is_link = stat.S_ISLNK(os.lstat(path).st_mode)
        except FileNotFoundError:
            return path
        if not is_link or _is_descriptor(path):
            return path
        path = path.parent / os.readlink(path)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _temporary(path: Path) -> Path:
    """Of this process: another one that writes the same file does not meet it."""
    name = os.fsencode(path.name)[:_NAME_BYTES].decode(errors="ignore")
    return path.with_name(f".{name}.{os.getpid()}")


def _is_device(path: Path) -> bool:
    return _is_descriptor(path) or (path.exists() and not path.is_file() and not path.is_dir())


def _is_descriptor(path: Path) -> bool:
    """Whether ``path`` is an open file of a process, such as /proc/self/fd/1."""
    return path.name.isdigit() and re.fullmatch(r"/proc/\d+(/task/\d+)?/fd|/dev/fd", str(path.parent)) is not None


def plain(value: object) -> object:
    """``value`` with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
