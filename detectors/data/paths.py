"""Finds the files of a COCO-format data set by the table of layouts."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .conversion.formats import foreign_format
from .errors import DatasetNotFound
from .images.files import did_you_mean, has_images
from .layouts import LAYOUTS, SPLIT_NAMES, SPLITS, Layout
from .not_found import contents, dataset_not_found

_KNOWN = [shown for names in SPLITS.values() for name in names for shown in (name, name.capitalize())]


@dataclass(frozen=True)
class DatasetPaths:
    """Where the images and annotations of a data set lie; None for a split that was not requested."""

    train_images: Path | None = None
    train_annotations: Path | None = None
    val_images: Path | None = None
    val_annotations: Path | None = None
    train_layout: str | None = None
    """Name of the layout, "given paths" if both paths were given; as ``val_layout``."""
    val_layout: str | None = None


def find_dataset(
    data_dir: str | os.PathLike | None,
    *,
    splits: Sequence[str] = ("train", "val"),
    train_images: str | os.PathLike | None = None,
    train_annotations: str | os.PathLike | None = None,
    val_images: str | os.PathLike | None = None,
    val_annotations: str | os.PathLike | None = None,
) -> DatasetPaths:
    """Finds the files of a COCO-format data set under ``data_dir`` in one of LAYOUTS.

    Each explicit path takes precedence; ``data_dir`` may be None if they cover the requested ``splits``. Images and
    annotations of a split are never taken from different layouts. A JSON that lists all images is the training split:
    ``data.val_fraction`` divides it.

    Raises:
        DatasetNotFound: names what was found, what was looked for, and the settings that name the files.
    """
    explicit = {
        "train": {"images": train_images, "annotations": train_annotations},
        "val": {"images": val_images, "annotations": val_annotations},
    }
    if unknown := [split for split in splits if split not in explicit]:
        raise ValueError(f'splits must be "train" or "val", got {unknown[0]!r}')
    folder = None if data_dir is None else Path(data_dir)
    given = {
        split: {kind: Path(path) for kind, path in paths.items() if path is not None}
        for split, paths in explicit.items()
    }
    found = {split: _find(folder, split, given[split]) for split in splits}
    missing = {split: given[split] for split in splits if not found[split]}
    if missing:
        train = {} if "train" in missing else found.get("train") or _find(folder, "train", {})
        raise dataset_not_found(folder, missing, _near(folder, given), train.get("layout"))
    return DatasetPaths(**{f"{split}_{kind}": value for split, each in found.items() for kind, value in each.items()})


def find_split(data_dir: str | os.PathLike, name: str) -> tuple[Path, Path]:
    """(images, annotations) of a split of any name, also with a capital, in one of LAYOUTS.

    Raises:
        DatasetNotFound: names the splits that the folder has, or what else it has.
    """
    folder = Path(data_dir)
    found = _split(folder, name) or _split(folder, name.capitalize())
    if not found:
        names = [known for known in _KNOWN if _split(folder, known)]
        there = f"; it has {', '.join(names)}" if names else f", which {contents(folder)}"
        raise DatasetNotFound(f"no split {name!r} in {data_dir}{there}")
    return found["images"], found["annotations"]


def _split(folder: Path, name: str) -> dict[str, Path | str]:
    """As :func:`_find`, for a split of exactly this name."""
    return next((found for layout in LAYOUTS if layout.has_splits and (found := _match(folder, layout, name, {}))), {})


def has_validation_split(data_dir: str | os.PathLike) -> bool:
    """Whether the folder has a validation split in one of LAYOUTS."""
    return bool(_find(Path(data_dir), "val", {}))


def require_split(data_dir: str | os.PathLike) -> None:
    """DatasetNotFound if the folder has neither a validation split nor images to hold one out from."""
    if not _find(Path(data_dir), "train", {}):
        find_dataset(data_dir, splits=("val",))


def _find(folder: Path | None, split: str, given: Mapping[str, Path]) -> dict[str, Path | str]:
    """{"images", "annotations", "layout"} of a split, empty if it is not there."""
    if len(given) == 2:
        there = given["images"].is_dir() and given["annotations"].is_file()
        return {**given, "layout": "given paths"} if there else {}
    if folder is None:
        return {}
    for layout in LAYOUTS:
        if not layout.has_splits and (split != "train" or _has_splits(folder)):
            continue
        for name in SPLIT_NAMES[split]:
            if found := _match(folder, layout, name, given):
                return found
    return {}


def _has_splits(folder: Path) -> bool:
    return any(
        _match(folder, layout, name, {})
        for layout in LAYOUTS
        if layout.has_splits
        for names in SPLIT_NAMES.values()
        for name in names
    )


def _match(folder: Path, layout: Layout, name: str, given: Mapping[str, Path]) -> dict[str, Path | str]:
    annotations = given.get("annotations") or _only_file(folder, layout.annotations.format(split=name))
    if annotations is None or not annotations.is_file():
        return {}
    images = [given["images"]] if "images" in given else (folder / path.format(split=name) for path in layout.images)
    for path in images:
        if path.is_dir() and (path != folder or "images" in given or has_images(folder)):
            return {"images": path, "annotations": annotations, "layout": layout.name}
    return {}


def _only_file(folder: Path, pattern: str) -> Path | None:
    """The path of the file; for a pattern with ``*`` the only file that fits it, or None.

    If several files fit, only those in COCO's format count; also beside labels in another format: Label Studio's YOLO
    export has a notes.json.
    """
    if "*" not in pattern:
        return folder / pattern
    matches = [path for path in folder.glob(pattern) if not path.name.startswith(".")]
    if len(matches) > 1 or (matches and foreign_format(folder) is not None):
        matches = [path for path in matches if _has_coco_lists(path)]
    return matches[0] if len(matches) == 1 else None


def _has_coco_lists(path: Path) -> bool:
    """Whether the names of COCO's lists are in the file; it is not parsed."""
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(f'"{name}"'.encode()) >= 0 for name in ("images", "annotations", "categories"))
    except (OSError, ValueError):  # an empty file, for example
        return False


def _near(folder: Path | None, given: Mapping[str, Mapping[str, Path]]) -> str:
    """The path that may be meant: a subfolder with a data set, or an existing path with a similar name."""
    for inner in _subfolders(folder):
        if any(_find(inner, split, {}) for split in SPLIT_NAMES):
            return f"; did you mean '{inner}'?"
    named = (folder, *(path for paths in given.values() for path in paths.values()))
    return next((text for path in named if path is not None and (text := did_you_mean(path))), "")


def _subfolders(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        # glob has no entries where a folder cannot be read
        yield from sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))[:50]
