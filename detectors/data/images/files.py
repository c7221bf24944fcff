"""Finds missing files, and the existing name that an error message suggests for a missing one."""

from __future__ import annotations

import difflib
import os
import posixpath
import re
import unicodedata
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from pathlib import Path

IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif",
))  # fmt: skip
"""What counts as an image among the files of a folder."""

_HASHED = re.compile(r"^[0-9a-f]{8}-(?=.)")

_MOST = 5000
"""With more names than this, misspellings are not searched for: comparing letters takes time."""


class NearNames:
    """The names of files, indexed to find the one that a misspelled name means.

    These differences are ignored: a URL prefix, %20 for a space, a backslash for a slash, case, Unicode form,
    surrounding spaces, the extension, the folder if no file of another folder has that name. Otherwise the names are
    compared letter by letter, except where only numbers differ: those are names of other images.
    """

    def __init__(self, existing: Iterable[str]):
        self.names = list(existing)
        self._by_form: list[dict[str, str | None]] = [{}, {}, {}, {}]
        for name in self.names:
            for form, found in zip(_forms(name), self._by_form, strict=True):
                first = found.setdefault(form, name)
                if first is not None and posixpath.dirname(first) != posixpath.dirname(name):
                    found[form] = None  # ambiguous

    def find(self, name: str) -> str | None:
        """The nearest of the names, or None if none is near."""
        forms = _forms(name)
        for form, found in zip(forms, self._by_form, strict=True):
            if form in found:
                return found[form]
        if len(self.names) > _MOST:
            return None
        pattern = _without_numbers(forms[-1])
        others = [path for path, other in self._by_form[0].items()
                  if other is not None and _without_numbers(_forms(other)[-1]) != pattern]  # fmt: skip
        near = difflib.get_close_matches(forms[0], others, n=1, cutoff=0.75)
        return self._by_form[0][near[0]] if near else None

    def suggestion(self, name: str) -> str:
        """``"; did you mean 'a.png'?"``, or nothing."""
        near = self.find(name)
        return "" if near is None else f"; did you mean {near!r}?"


def _forms(name: str) -> tuple[str, str, str, str]:
    """A name's path in a normal form, the same without extension, and the last parts of both."""
    path = name.partition("://")[2].partition("?")[0] if "://" in name else name
    path = unicodedata.normalize("NFC", urllib.parse.unquote(path)).casefold().strip().replace("\\", "/")
    path = posixpath.normpath(path).lstrip("/")
    stem = posixpath.splitext(path)[0]
    return path, stem, posixpath.basename(path), posixpath.basename(stem)


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "0", text)


def did_you_mean(path: str | os.PathLike) -> str:
    """For a ``path`` that does not exist, ``"; did you mean '...'?"`` with the nearest path that does, or nothing.

    First, what a shell replaces (``~``, ``$HOME``, quotes) is replaced, file:// is removed, and %20 is read as a URL's.
    If that does not exist either, the first part of the path that does not exist is replaced by the nearest name.
    """
    path, text = Path(path), str(path).strip().strip("'\"")
    try:
        local = re.sub("^file:/+", "/", text)
        for read in (text, os.path.expandvars(os.path.expanduser(text)), local, urllib.parse.unquote(local)):
            if not path.exists() and Path(read) != path and os.path.exists(read):
                return f"; did you mean '{read}'?"
        missing = next(part for part in [*reversed(path.parents), path] if not part.exists())
        rest = path.relative_to(missing)
        near = NearNames(sorted(os.listdir(missing.parent))).find(missing.name)
        meant = missing.with_name(near) / rest if near is not None else None
        return f"; did you mean '{meant}'?" if meant is not None and meant.exists() else ""
    except (OSError, StopIteration, ValueError):  # nothing to list; all parts exist; an invalid name
        return ""


def has_images(folder: Path) -> bool:
    """Whether a file in the folder itself has the extension of an image."""
    try:
        with os.scandir(folder) as listing:
            return any(posixpath.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES for entry in listing)
    except OSError:
        return False


def missing_files(folder: Path, names: Iterable[str]) -> set[str]:
    """The names that are not files in ``folder``."""
    with os.scandir(folder) as listing:
        files = {entry.name for entry in listing if _is_file(entry)}
    # a flat data set needs one listing of the folder; only a name with a subfolder needs a query of its own
    return {name for name in names if name not in files and not ("/" in name and os.path.isfile(folder / name))}


def other_places(existing: Sequence[str], names: Sequence[str], missing: Set[str]) -> dict[str, str]:
    """{missing name: existing file} where a name has folders that the file's path does not have, or the reverse.

    Backslashes are slashes, and %20 is a space. ``images/a.jpg`` and ``images\\1/a.jpg`` may be ``a.jpg``; ``a.jpg``
    may be ``default/a.jpg`` if that is the only one. Label Studio puts eight hexadecimal digits and a dash before a
    name; the name without them is searched for last. A file that another of ``names`` uses is not taken.
    """
    ends: dict[str, str | None] = {}
    for path in existing:
        for start in _starts(path):
            ends[path[start:]] = None if path[start:] in ends else path
    files, found = set(existing), {}
    for name in missing:
        path = posixpath.normpath(urllib.parse.unquote(name.partition("?")[0]).replace("\\", "/"))
        shorter = [path[start:] for start in _starts(path)]
        place = next((end for end in shorter if end in files), None) or ends.get(path)
        if place is None and (bare := _HASHED.sub("", shorter[-1])) != shorter[-1]:
            place = bare if bare in files else ends.get(bare)
        if place is not None:
            found[name] = place
    taken = Counter(found.values())
    taken.update(set(names) - missing)
    return {name: path for name, path in found.items() if taken[path] == 1}


def _starts(path: str) -> list[int]:
    """Where the parts of a path begin."""
    return [0, *(k + 1 for k, letter in enumerate(path) if letter == "/")]


def files_below(folder: Path) -> list[str]:
    """The files in ``folder`` and its subfolders, as sorted paths relative to it, with slashes."""
    return sorted(
        (Path(parent) / file).relative_to(folder).as_posix() for parent, _, files in os.walk(folder) for file in files
    )


def _is_file(entry: os.DirEntry) -> bool:
    """False for a pipe or a device: reading it may never end."""
    try:
        return entry.is_file()
    except OSError:  # a link loop, for example
        return False
