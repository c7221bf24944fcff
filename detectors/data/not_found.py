"""The error for a data set that was not found: its message has several lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..printable import printable
from .conversion.formats import foreign_format
from .errors import DatasetNotFound
from .images.files import IMAGE_SUFFIXES
from .layouts import LAYOUTS

_SHOWN = 10  # entries of a folder
_COUNTED = 10_000  # files of a subfolder


def dataset_not_found(
    folder: Path | None,
    missing: Mapping[str, Mapping[str, Path]],
    near: str,
    train_layout: str | None,
) -> DatasetNotFound:
    """The error, which names what was looked for, what the folder has, and what would help.

    Args:
        missing: {split: its explicit paths} of the splits that were not found.
        near: a path that may be meant, as a part of the first line.
        train_layout: the layout of the training split if it was found and the validation split was not.
    """
    short = f"{DatasetNotFound.short}{near}"
    lines = [f"{short}; looked for"]
    for split, given in missing.items():
        paths = " with ".join(f"{path} ({'there' if path.exists() else 'absent'})" for path in given.values())
        if len(given) == 2 or (paths and folder is not None):
            lines.append(f"  {split}: {paths}")
        elif folder is None:
            lines.append(f"  {split}: neither a data folder nor both paths of the split were given")
    if folder is not None and any(len(given) < 2 for given in missing.values()):
        lines += _layout_lines(folder, missing) if folder.is_dir() else []
        place = f"in {folder.absolute()}, which {contents(folder)}"
        short += f" {place}"
        lines.append(place)
        if (kind := foreign_format(folder)) is not None:
            lines.append(f"This is the format of {kind}, which mlc-ext convert {folder} NEW_FOLDER converts.")
    if train_layout is not None and not missing["val"]:  # paths of a validation split exclude data.val_fraction
        lines.append(
            f"The training split is there ({train_layout}): --set data.val_fraction=0.2 holds out a part of it."
        )
    for split in missing:
        lines.append(
            f"Files in other places: --set data.{split}_annotations=FILE.json --set data.{split}_images=FOLDER"
        )
    error = DatasetNotFound("\n".join(lines))
    error.short = short
    return error


def _layout_lines(folder: Path, missing: Mapping[str, object]) -> list[str]:
    lines = []
    for layout in LAYOUTS:
        if not layout.has_splits and "train" not in missing:
            continue
        names = [layout.val if split == "val" else split for split in missing] if layout.has_splits else [""]
        parts = [
            f"{_marked(folder, layout.images[0].format(split=name) + '/')} with "
            f"{_marked(folder, layout.annotations.format(split=name))}"
            for name in names
        ]
        lines.append(f"  {layout.name}: {'; '.join(parts)}")
    return lines


def _marked(folder: Path, path: str) -> str:
    shown = "images here" if path == "./" else path
    return f"{shown} (there)" if path != "./" and (folder / path).exists() else shown


def contents(folder: Path) -> str:
    """``"has ..."``: the folder's entries, those of subfolders counted."""
    if not folder.is_dir():
        return "is a file: give its folder" if folder.exists() else "does not exist"
    try:
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    images = [path for path in entries if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()]
    others = sorted(set(entries) - set(images), key=lambda path: (not path.is_dir(), path.name))
    shown = [_entry(path) for path in others[:_SHOWN]]
    if len(others) > _SHOWN:
        shown.append(f"{len(others) - _SHOWN} more")
    if images:
        shown.append(f"{len(images)} image{'' if len(images) == 1 else 's'}")
    return f"has {', '.join(shown)}" if shown else "is empty"


def _entry(path: Path) -> str:
    name = printable(path.name)
    if not path.is_dir():
        return name
    folders, files = [], 0
    try:
        for inner in path.iterdir():
            if inner.is_dir():
                folders.append(f"{printable(inner.name)}/")
            else:
                files += 1
            if files + len(folders) >= _COUNTED:
                break
    except OSError:
        return f"{name}/ (cannot be read)"
    parts = [", ".join(sorted(folders)[:3]) + (", ..." if len(folders) > 3 else "")] if folders else []
    if files or not folders:
        parts.append(f"{files}{' or more' if files >= _COUNTED else ''} file{'' if files == 1 else 's'}")
    return f"{name}/ ({', '.join(parts)})"
