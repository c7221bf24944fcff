"""The images and videos that predictions are made on, and their numbers."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..data.images.files import IMAGE_SUFFIXES, did_you_mean

VIDEO_SUFFIXES = frozenset((
    ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".webm", ".wmv",
))  # fmt: skip
"""What counts as a video. Of an animated GIF or WebP the first frame is read, as an image."""

FRAME_IDS = 10**9
"""The image id of frame f of the k-th video, k from 1, is ``FRAME_IDS * k + f``."""


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a video, by its suffix."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def find_images(
    inputs: Sequence[Path], recursive: bool, out: Path | None, failed: dict[Path, str], *, videos: bool = False
) -> Iterator[tuple[Path, Path]]:
    """(image file, where it goes below the output folder), each file once, folders in the order of names.

    An input is a file, a folder or a pattern such as ``photos/**/*.jpg``, whose matches are taken as the files of a
    folder are. In a folder, files with IMAGE_SUFFIXES are images, and with ``videos`` those with VIDEO_SUFFIXES are
    videos; a file that is named itself may be called anything. Links are followed to files, not to folders. What lies
    in ``out`` of an earlier run is no input. A folder within a given one that cannot be listed goes to ``failed`` with
    the reason. The place of a video ends with .mp4.

    Raises:
        FileNotFoundError: an input does not exist, or is neither a file nor a folder, or no image matches it.
        ValueError: an input is ``out``.
    """
    seen: set[str] = set()
    taken: set[Path] = set()
    leave_out = None if out is None else os.path.realpath(out)
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES if videos else IMAGE_SUFFIXES
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
                    if Path(name).suffix.lower() in suffixes
                ]
        elif not (found := _matches(given, suffixes, leave_out)):
            raise FileNotFoundError(f"no image or folder {given}{did_you_mean(given)}")
        for path, place in found:
            if (real := os.path.realpath(path)) in seen:
                continue
            seen.add(real)
            if is_video(place) and place.suffix.lower() != ".mp4":
                place = place.with_name(drawing_name(place.name, ".mp4"))
            chosen, number = place, 1
            while chosen in taken:
                number += 1
                chosen = place.with_name(f"{place.stem}_{number}{place.suffix}")
            taken.add(chosen)
            yield path, chosen


def is_one_file(given: str | os.PathLike[str]) -> bool:
    """Whether an input of :func:`find_images` is a file itself."""
    return os.path.isfile(given)  # unlike Path's, False for names of any length


def listed_images(given: str | os.PathLike[str], recursive: bool, failed: dict[Path, str]) -> list[Path] | None:
    """The images of a folder or pattern; None for the path of an image. ``failed`` is that of :func:`find_images`.

    ValueError: no images in it, an empty path, or the path of a video.
    """
    if is_one_file(given):
        if is_video(given):
            raise ValueError(f"{given} is a video, not an image: iterate over model.video({str(given)!r})")
        return None
    if not os.fspath(given):  # Path("") would be the current folder
        raise ValueError("the path of an image must not be empty")
    found = [path for path, _ in find_images([Path(given)], recursive, None, failed)]
    if not found:
        raise ValueError(f"no images in {given}" + ("" if recursive else " (recursive=True looks deeper)"))
    return found


def _matches(pattern: Path, suffixes: frozenset[str], leave_out: str | None) -> list[tuple[Path, Path]]:
    """The images that a pattern matches, each with its place below the last folder that the pattern names."""
    parts = pattern.parts
    fixed = next((k for k, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    if fixed == len(parts):
        return []
    root = Path(*parts[:fixed])
    return [
        (path, Path(root.resolve().name) / path.relative_to(root))
        for path in sorted(root.glob(str(Path(*parts[fixed:]))))  # its ** follows no links to folders
        if path.suffix.lower() in suffixes
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


def row_ids(paths: Sequence[Path]) -> list[int]:
    """The image ids of files: of images as :func:`image_ids`, of a video that of its frame 0.

    Videos do not change the ids of the images, unless an image's number is as large as a frame's: then images have
    1, 2, ...
    """
    images = [path for path in paths if not is_video(path)]
    numbers = image_ids(images)
    if len(images) < len(paths) and max(numbers, default=0) >= FRAME_IDS:
        numbers = list(range(1, len(images) + 1))
    of_images, of_videos = iter(numbers), itertools.count(FRAME_IDS, FRAME_IDS)
    return [next(of_videos if is_video(path) else of_images) for path in paths]


def drawing_name(name: str, suffix: str) -> str:
    """A file's name with ``suffix`` added; a longer one than file systems have is cut and made distinct by a digest."""
    if len(os.fsencode(name)) + len(suffix) <= 255:
        return name + suffix
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    return f"{os.fsencode(name)[:200].decode(errors='ignore')}~{digest}{suffix}"
