"""Where the files of a YOLO data set are: its data.yaml, class names, splits and label files."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from ..layouts import SPLITS
from .formats import class_files
from .source import Source, image_files, split_of, split_of_path


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must contain names and splits, got a {type(content).__name__}")
    return content


def class_names(settings: dict[str, Any], folder: Path) -> dict[int, str]:
    """{class: name}, from data.yaml, else from class_files."""
    found = settings.get("names")
    if found is None:
        files = {file: _texts(file) for file in class_files(folder)}
        found = next(iter(files.values()), None)
        if other := next((file for file, names in files.items() if names != found), None):
            raise ValueError(f"{next(iter(files))} and {other} have different class names")
    if isinstance(found, list):
        found = dict(enumerate(found))
    if not isinstance(found, dict) or not found:
        raise ValueError(
            f"{folder} has no class names: neither names in data.yaml nor a classes.txt with one name per line, in the "
            "order of the class numbers"
        )
    try:
        numbered = sorted((int(key), name) for key, name in found.items())
    except (TypeError, ValueError) as error:
        raise ValueError(f"names of data.yaml must be numbered from 0: {error}") from error
    names = {}
    for number, name in numbered:
        if isinstance(name, bool) or not isinstance(name, (str, int, float)) or not str(name).strip():
            raise ValueError(f"data.yaml: the name of class {number} must be text, in quotes if it is no, yes or null")
        names[number] = str(name)
    if len(set(names.values())) < len(names):
        raise ValueError(f"two classes have one name: {', '.join(names.values())}")
    return names


def stated_splits(settings: dict[str, Any], folder: Path, source: Source) -> dict[str, list[Path]]:
    """{split: images} by data.yaml. ``source`` gets a note on places that are not there."""
    found = {}
    base = settings.get("path") or ""
    if not isinstance(base, str):
        raise ValueError(f"data.yaml: path must be a path, got a {type(base).__name__}")
    for split, keys in SPLITS.items():
        places = next((settings[key] for key in keys if settings.get(key)), None)
        if places is None:
            continue
        files: list[Path] = []
        for place in places if isinstance(places, list) else [places]:
            if not isinstance(place, str):
                raise ValueError(f"data.yaml: {split} must be a path or a list of paths, got a {type(place).__name__}")
            path = _inside(folder, place, base)
            if path is None and split == "train":
                raise ValueError(f"data.yaml: {split}: {place} is not in {folder}")
            if path is None:  # exports name splits that they do not have
                source.note("places in data.yaml that are not there", f"{split}: {place}")
            else:
                files += image_files(path) if path.is_dir() else _listed(path, folder)
        if files:
            found[split] = list(dict.fromkeys(files))
    return found


def _inside(folder: Path, place: str, base: str) -> Path | None:
    """The path in ``folder`` that a path of data.yaml means: its longest end that exists there.

    Exports name folders of another machine, and Roboflow's ``../train/images`` is ``train/images``. An end without the
    name of its split is not used: ``images`` may be of another split than ``../valid/images``.
    """
    above, below = (
        tuple(part for part in PurePosixPath(text.replace("\\", "/")).parts if part not in ("/", "..", "."))
        for text in (base, place)
    )
    if not above + below:
        return folder
    relative = not PurePosixPath(place.replace("\\", "/")).is_absolute()
    for start in range(len(above + below)):
        dropped, end = below[: max(0, start - len(above))], (above + below)[start:]
        if relative and any(map(split_of, dropped)) and not any(map(split_of, end)):
            return None
        if (path := folder.joinpath(*end)).exists():
            return path
    return None


def _listed(path: Path, folder: Path) -> list[Path]:
    """The images that a text file lists."""
    lines = _texts(path)
    found = [(line, _inside(folder, line, "")) for line in lines]
    if absent := [line for line, file in found if file is None]:
        raise ValueError(f"{path}: {len(absent)} of {len(lines)} images are not in {folder}, first {absent[0]}")
    return [file for _, file in found if file is not None]


def _texts(path: Path) -> list[str]:
    """The lines of a file that are not blank."""
    return [line.strip() for line in path.read_text("utf-8-sig", "replace").splitlines() if line.strip()]


def split_folders(folder: Path) -> dict[str, list[Path]]:
    """Splits without a data.yaml, by the names of folders: images/train, train/images, obj_train_data; images of other
    folders are for training. Where there are folders called images, only the images in these count."""
    files = image_files(folder)
    inner = [file for file in files if "images" in file.relative_to(folder).parts[:-1]]
    found: dict[str, list[Path]] = {}
    for file in inner or files:
        found.setdefault(split_of_path(file, folder) or "train", []).append(file)
    return found


def label_file(image: Path, folder: Path) -> Path:
    """The label file of an image: beside it, else in the same path with ``labels`` for the last ``images``."""
    parts = image.relative_to(folder).parts
    at = next((k for k in range(len(parts) - 2, -1, -1) if parts[k] == "images"), None)
    beside = image.with_suffix(".txt")
    if at is None or beside.is_file():
        return beside
    return folder.joinpath(*parts[:at], "labels", *parts[at + 1 :]).with_suffix(".txt")
