"""The images of a JSON whose files exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..images.files import NearNames, files_below, missing_files, other_places
from .findings import Findings

SHOWN = 3
"""Examples of a fault in a message."""

MOVED = "images found by their name in another folder than the JSON gives"


def present_images(
    entries: dict[int, dict[str, Any]], folder: Path, findings: Findings, *, strict: bool
) -> dict[int, dict[str, Any]]:
    """The entries whose files exist in ``folder``, by id. ``findings`` gets the counts of missing ones.

    A name that does not exist is searched for by :func:`~mlc_ext.detectors.data.images.files.other_places`: exporters
    write names relative to other folders, and with backslashes.

    Raises:
        FileNotFoundError: no image exists, or with ``strict`` one is missing.
    """
    names = [entry["file_name"] for entry in entries.values()]
    missing = missing_files(folder, names)
    if not missing:
        return entries
    existing = files_below(folder)
    places = other_places(existing, names, missing)
    found = {name: place for name, place in places.items() if (folder / place).is_file()}  # not a pipe or a device
    missing -= found.keys()
    if found:
        moved = sum(name in found for name in names)
        findings.noted[MOVED] = moved
    if missing:
        near = NearNames(existing)
        absent = [name for name in names if name in missing]
        shown = [f"{name!r}{near.suggestion(name)}" for name in absent[:SHOWN]]
        findings.dropped["missing images"] = len(absent)
        findings.examples["missing images"] = shown[0]
        if strict or len(absent) == len(names):
            reported = ", ".join(shown) + (", ..." if len(absent) > SHOWN else "")
            raise FileNotFoundError(f"{len(absent)} of {len(names)} images are not in {folder}: {reported}")
    return {
        key: entry | {"file_name": found.get(entry["file_name"], entry["file_name"])}
        for key, entry in entries.items()
        if entry["file_name"] not in missing
    }
