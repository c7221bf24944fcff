"""The images that predictions are made on, and their numbers."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..data.images.files import IMAGE_SUFFIXES, did_you_mean


def find_images(
    inputs: Sequence[Path], recursive: bool, out: Path | None, failed: dict[Path, str]
) -> Iterator[tuple[Path, Path]]:
    """(image file, where it goes below the output folder), each file once, folders in the order of names.

    An input is a file, a folder or a pattern such as ``photos/**/*.jpg``, whose matches are taken as the files of a
    folder are. In a folder, files with IMAGE_SUFFIXES are images; a file that is named itself may be called anything.
    Links are followed to files, not to folders. What lies in ``out`` of an earlier run is no input. A folder within a
    given one that cannot be listed goes to ``failed`` with the reason.

    Raises:
        FileNotFoundError: an input does not exist, or is neither a file nor a folder, or no image matches it.
        ValueError: an input is ``out``.
    """
    seen: set[str] = set()
    taken: set[Path] = set()
    leave_out = None if out is None else os.path.realpath(out)
    for given in inputs:
        if is_one_file(given):
            found = [(given, Path(given.name))]
        elif os.path.realpath(given) == leave_out and os.path.isdir(given):
            raise ValueError(f"{given} is the output folder too, whose files are no input: choose another --out")
        elif os.path.isdir(given):
            found = []
            for folder, folders, files in os.walk(given, onerror=lambda error: failed.update(_listing_failed(error))):
                here = Path(folder)
                folders[:] = sorted(f for f in folders if recursive and os.path.realpath(here / f) != leave_out)
                found += [
                    (here / name, Path(given.resolve().name) / here.relative_to(given) / name)
                    for name in sorted(files)
                    if Path(name).suffix.lower() in IMAGE_SUFFIXES
                ]
        elif not (found := _matches(given, leave_out)):
            raise FileNotFoundError(f"no image or folder {given}{did_you_mean(given)}")
        for path, place in found:
            if (real := os.path.realpath(path)) in seen:
                continue
            seen.add(real)
            chosen, number = place, 1
            while chosen in taken:
                number += 1
                chosen = place.with_name(f"{place.stem}_{number}{place.suffix}")
            taken.add(chosen)
            yield path, chosen


def is_one_file(given: str | os.PathLike[str]) -> bool:
    """Whether an input of :func:`find_images` is a file itself."""
    return os.path.isfile(given)  # unlike Path's, False for names of any length


def _matches(pattern: Path, leave_out: str | None) -> list[tuple[Path, Path]]:
    """The images that a pattern matches, each with its place below the last folder that the pattern names."""
    parts = pattern.parts
    fixed = next((k for k, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    if fixed == len(parts):
        return []
    root = Path(*parts[:fixed])
    return [
        (path, Path(root.resolve().name) / path.relative_to(root))
        for path in sorted(root.glob(str(Path(*parts[fixed:]))))  # its ** follows no links to folders
        if path.suffix.lower() in IMAGE_SUFFIXES
        and os.path.isfile(path)
        and (leave_out is None or not Path(os.path.realpath(path)).is_relative_to(leave_out))
    ]


def _listing_failed(error: OSError) -> dict[Path, str]:
    return {Path(os.fsdecode(error.filename)): f"cannot be listed: {error.strerror}"}


def image_ids(paths: Sequence[Path | None]) -> list[int]:
    """The files' numbers, if all file names are distinct numbers; otherwise 1, 2, ... None is an image without file."""
    stems = ["" if path is None else path.stem for path in paths]
    if all(stem.isascii() and stem.isdigit() and len(stem) < 19 for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(paths) + 1))
