"""Which files of a data set are on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .near_names import NearNames


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
