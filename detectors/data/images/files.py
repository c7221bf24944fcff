"""Which files are on disk, and which existing name is near one that is missing: what an error message suggests."""

from __future__ import annotations

import difflib
import os
import posixpath
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

_MOST = 5000
"""Names that a misspelling is looked for in: comparing letter by letter takes time."""


class NearNames:
    """The names of a folder, indexed to find the one that is meant by a name that is not among them.

    A name is near in a URL of it, with %20 for a space, a backslash for a slash, another case or Unicode form, spaces
    around it, another or no extension, or another folder before it; else by its letters.
    """

    def __init__(self, existing: Iterable[str]):
        self.names = list(existing)
        self._by_form: list[dict[str, str]] = [{}, {}, {}]
        for name in self.names:
            for form, found in zip(_forms(name), self._by_form, strict=True):
                found.setdefault(form, name)

    def find(self, name: str) -> str | None:
        """The nearest of the names, or None if none is near."""
        for form, found in zip(_forms(name), self._by_form, strict=True):
            if form in found:
                return found[form]
        if len(self.names) > _MOST:
            return None
        near = difflib.get_close_matches(_forms(name)[0], self._by_form[0], n=1, cutoff=0.75)
        return self._by_form[0][near[0]] if near else None

    def suggestion(self, name: str) -> str:
        """``"; did you mean 'a.png'?"``, or nothing."""
        near = self.find(name)
        return "" if near is None else f"; did you mean {near!r}?"


def _forms(name: str) -> tuple[str, str, str]:
    """What two names for one file have in common: the path without spelling; its last part; that without extension."""
    path = name.partition("://")[2].partition("?")[0] if "://" in name else name
    path = unicodedata.normalize("NFC", urllib.parse.unquote(path)).casefold().strip().replace("\\", "/")
    path = posixpath.normpath(path).lstrip("/")
    last = posixpath.basename(path)
    return path, last, posixpath.splitext(last)[0]


def did_you_mean(path: str | os.PathLike) -> str:
    """For a ``path`` that does not exist, ``"; did you mean '...'?"`` with the nearest path that does, or nothing.

    What a shell would have read (``~``, ``$HOME``, quotes) and file:// are tried first; else the first part of the path
    that does not exist is the one that is replaced.
    """
    path, text = Path(path), str(path).strip().strip("'\"")
    try:
        for read in (text, os.path.expandvars(os.path.expanduser(text)), re.sub("^file:/+", "/", text)):
            if not path.exists() and Path(read) != path and os.path.exists(read):
                return f"; did you mean '{read}'?"
        missing = next(part for part in [*reversed(path.parents), path] if not part.exists())
        rest = path.relative_to(missing)
        near = NearNames(sorted(os.listdir(missing.parent))).find(missing.name)
        meant = missing.with_name(near) / rest if near is not None else None
        return f"; did you mean '{meant}'?" if meant is not None and meant.exists() else ""
    except (OSError, StopIteration, ValueError):  # nothing to list; all parts exist; a name that no disk has
        return ""


def missing_files(folder: Path, names: Iterable[str]) -> tuple[set[str], NearNames]:
    """-> (the names that are no files in ``folder``, the files there as suggestions)."""
    with os.scandir(folder) as listing:
        files = {entry.name: None for entry in listing if _is_file(entry)}
    # one listing of the folder serves a flat set; only names with a folder cost a look at the disk each
    missing = {name for name in names if name not in files and not ("/" in name and os.path.isfile(folder / name))}
    return missing, NearNames(files)


def _is_file(entry: os.DirEntry) -> bool:
    """Not a pipe or a device: reading it might never end."""
    try:
        return entry.is_file()
    except OSError:  # a link that leads round in a circle, say
        return False
