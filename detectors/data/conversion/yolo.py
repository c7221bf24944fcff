"""Reads a data set in YOLO's format: ``data.yaml``, ``images/`` and ``labels/``.

A label file has a line for each object: class, center x, center y, width, height, as fractions of the image's sides. A
line of a class and three or more points is a polygon (or four corners of a rotated box), whose bounding box is used.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from .formats import YOLO, yolo_yaml
from .source import (
    SPLITS,
    Source,
    SourceBox,
    SourceImage,
    common_folder,
    image_files,
    image_size,
    split_of,
    unique_name,
)

_UNKNOWN = "?"
_KEYS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}


def read_yolo(folder: Path) -> Source:
    """The data set in ``folder``.

    Raises:
        ValueError: no split, no image or no class names are found, or data.yaml cannot be read.
    """
    path = yolo_yaml(folder)
    settings = {} if path is None else _read_yaml(path)
    names = _names(settings, folder)
    source = Source(YOLO, list(names.values()))
    splits = _splits(settings, folder) if path is not None else _split_folders(folder)
    if not any(splits.values()):
        raise ValueError(f"{path or folder}: no image of a split is found in {folder}")
    seen: set[Path] = set()
    labels: set[Path] = set()
    for split, files in splits.items():
        root, used = common_folder(files, folder), set()
        source.splits[split] = []
        for file in files:
            source.images_found[split] += 1
            if file in seen:
                source.note("images in several splits", str(file))
            seen.add(file)
            label = _label_file(file, folder)
            labels.add(label)
            name = unique_name(file.relative_to(root).as_posix(), used)
            _read_image(source, split, file, name, label, names)
    for file in image_files(folder):
        if file not in seen:
            source.problem("images of no split", str(file))
    for label in sorted((folder / "labels").rglob("*.txt")) + sorted(folder.glob("*/labels/**/*.txt")):
        if label not in labels and label.name != "classes.txt":
            _lost_labels(source, label, "label files without an image", names)
    return source


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must contain names and splits, got a {type(content).__name__}")
    return content


def _names(settings: dict[str, Any], folder: Path) -> dict[int, str]:
    """{class: name}, from data.yaml, else from classes.txt or obj.names."""
    found = settings.get("names")
    if found is None:
        for file in (folder / "classes.txt", folder / "labels" / "classes.txt", folder / "obj.names"):
            if file.is_file():
                found = [line.strip() for line in file.read_text("utf-8", "replace").splitlines() if line.strip()]
                break
    if isinstance(found, list):
        found = dict(enumerate(found))
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{folder} has no class names: neither names in data.yaml nor a classes.txt")
    try:
        names = {int(key): str(name) for key, name in sorted(found.items(), key=lambda item: int(item[0]))}
    except (TypeError, ValueError) as error:
        raise ValueError(f"names of data.yaml must be numbered from 0: {error}") from error
    if len(set(names.values())) < len(names):
        raise ValueError(f"two classes have one name: {', '.join(names.values())}")
    return names


def _splits(settings: dict[str, Any], folder: Path) -> dict[str, list[Path]]:
    found = {}
    for split, keys in _KEYS.items():
        places = next((settings[key] for key in keys if settings.get(key)), None)
        if places is None:
            continue
        files: list[Path] = []
        for place in places if isinstance(places, list) else [places]:
            path = _inside(folder, str(place), str(settings.get("path") or ""))
            if path is None and split == "test":  # exports name one that they do not have
                continue
            if path is None:
                raise ValueError(f"data.yaml: {keys[0]}: {place} is not in {folder}")
            files += image_files(path) if path.is_dir() else _listed(path, folder)
        found[split] = list(dict.fromkeys(files))
    return found


def _inside(folder: Path, place: str, base: str) -> Path | None:
    """The path in ``folder`` that a path of data.yaml means: its longest end that exists there. Exports name folders of
    another machine, and Roboflow's ``../train/images`` is ``train/images``."""
    parts = PurePosixPath(base.replace("\\", "/"), place.replace("\\", "/")).parts
    parts = tuple(part for part in parts if part not in ("/", "..", "."))
    if not parts:
        return folder
    ends = (folder.joinpath(*parts[start:]) for start in range(len(parts)))
    return next((path for path in ends if path.exists()), None)


def _listed(path: Path, folder: Path) -> list[Path]:
    """The images that a text file lists."""
    lines = [line.strip() for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]
    found = [(line, _inside(folder, line, "")) for line in lines]
    if absent := [line for line, file in found if file is None]:
        raise ValueError(f"{path}: {len(absent)} of {len(lines)} images are not in {folder}, first {absent[0]}")
    return [file for _, file in found if file is not None]


def _split_folders(folder: Path) -> dict[str, list[Path]]:
    """Splits without a data.yaml: images/train or train/images, else all images are for training."""
    found: dict[str, list[Path]] = {}
    for split, names in SPLITS.items():
        for name in names:
            for path in (folder / "images" / name, folder / name / "images"):
                if path.is_dir():
                    found[split] = found.get(split, []) + image_files(path)
    if (folder / "images").is_dir():
        others = [file for file in image_files(folder / "images")
                  if split_of(file.relative_to(folder / "images").parts[0]) is None]  # fmt: skip
        if others:
            found["train"] = found.get("train", []) + others
    return found


def _label_file(image: Path, folder: Path) -> Path:
    """The last ``images`` of the path in ``folder`` is ``labels``; else it is beside the image."""
    parts = image.relative_to(folder).parts
    at = next((k for k in range(len(parts) - 2, -1, -1) if parts[k] == "images"), None)
    beside = image.with_suffix(".txt")
    if at is None or beside.is_file():
        return beside
    return folder.joinpath(*parts[:at], "labels", *parts[at + 1 :]).with_suffix(".txt")


def _read_image(source: Source, split: str, file: Path, name: str, label: Path, names: dict[int, str]) -> None:
    try:
        width, height = image_size(file)
    except OSError as error:
        source.problem("images that cannot be read", str(error))
        if label.is_file():
            _lost_labels(source, label, "boxes of images that cannot be read", names, split)
        return
    image = SourceImage(file, name, width, height)
    source.splits[split].append(image)
    if not label.is_file():
        source.note("images without a label file (no objects)", str(file))
        return
    for place, line in _lines(label):
        category = _category(line, names)
        source.boxes_found[split, category] += 1
        box = _box(line, category, width, height)
        if isinstance(box, str):
            source.lose(box, f"{place}: {line[:60]!r}")
            continue
        if len(line.split()) > 5:
            source.note("polygons, of which the bounding box is used", place)
        image.boxes.append(box)


def _lost_labels(source: Source, label: Path, reason: str, names: dict[int, str], split: str = _UNKNOWN) -> None:
    """Counts a label file whose boxes have no image."""
    lines = _lines(label)
    for _, line in lines:
        source.boxes_found[split, _category(line, names)] += 1
    source.lose(f"boxes of {reason}" if not reason.startswith("boxes") else reason, str(label), len(lines))
    if split == _UNKNOWN:
        source.problem(reason, str(label))


def _lines(label: Path) -> list[tuple[str, str]]:
    """(place, text) of the lines that are not blank."""
    text = label.read_text("utf-8-sig", "replace")
    return [(f"{label}:{number}", line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _category(line: str, names: dict[int, str]) -> str:
    try:
        number = float(line.split()[0])
        return names.get(int(number), _UNKNOWN) if number.is_integer() else _UNKNOWN
    except ValueError:
        return _UNKNOWN


def _box(line: str, category: str, width: int, height: int) -> SourceBox | str:
    """The box of a line, or why it cannot be used."""
    try:
        values = [float(text) for text in line.split()[1:]]
    except ValueError:
        return "lines that are not numbers"
    if not all(map(math.isfinite, values)):
        return "lines that are not finite numbers"
    if category == _UNKNOWN:
        return "boxes of unknown classes"
    if len(values) == 4:
        x, y, w, h = values
        left, top = x - w / 2, y - h / 2
    elif len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[::2], values[1::2]
        left, top, w, h = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    else:
        return "lines that are neither a box (5 values) nor a polygon"
    if w <= 0 or h <= 0:
        return "boxes without area"
    if left >= 1 or top >= 1 or left + w <= 0 or top + h <= 0:
        return "boxes outside their image (are they fractions of its sides?)"
    return SourceBox(category, (left * width, top * height, w * width, h * height))
