"""Reads a data set in YOLO's format: ``data.yaml``, ``images/`` and ``labels/``.

A label file has a line for each object: class, center x, center y, width, height, as fractions of the image's sides. A
line of a class and three or more points is a polygon (or four corners of a rotated box), whose bounding box is used;
where data.yaml has ``kpt_shape``, keypoints follow the box and are not used. Without a data.yaml, labels may be beside
the images, and the folders' names give the splits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from .formats import YOLO, yolo_yaml
from .source import (
    UNKNOWN,
    Source,
    SourceBox,
    SourceImage,
    common_folder,
    image_files,
    image_size,
    unique_name,
)
from .yolo_places import class_names, label_file, read_yaml, split_folders, stated_splits


def read_yolo(folder: Path) -> Source:
    """The data set in ``folder``.

    Raises:
        ValueError: no split, no image or no class names are found, or data.yaml cannot be read.
    """
    path = yolo_yaml(folder)
    settings = {} if path is None else read_yaml(path)
    names = class_names(settings, folder)
    source = Source(YOLO, list(names.values()))
    splits = stated_splits(settings, folder, source) if path is not None else split_folders(folder)
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
            label = label_file(file, folder)
            labels.add(label)
            image = _read_image(source, split, file, unique_name(file.relative_to(root).as_posix(), used), label, names)
            if image is not None:
                _read_boxes(source, split, image, label, names, keypoints="kpt_shape" in settings)
    for file in image_files(folder):
        if file not in seen:
            source.problem("images of no split", str(file))
            labels.add(label := label_file(file, folder))
            _lose_boxes(source, UNKNOWN, label, "boxes of images of no split", names)
    for label in sorted((folder / "labels").rglob("*.txt")) + sorted(folder.glob("*/labels/**/*.txt")):
        if label not in labels and label.name != "classes.txt" and not label.name.startswith("."):
            source.problem("label files without an image", str(label))
            _lose_boxes(source, UNKNOWN, label, "boxes of label files without an image", names)
    return source


def _read_image(
    source: Source, split: str, file: Path, name: str, label: Path, names: dict[int, str]
) -> SourceImage | None:
    try:
        image = SourceImage(file, name, *image_size(file))
    except OSError as error:
        source.problem("images that cannot be read", str(error))
        _lose_boxes(source, split, label, "boxes of images that cannot be read", names)
        return None
    source.splits[split].append(image)
    return image


def _read_boxes(
    source: Source, split: str, image: SourceImage, label: Path, names: dict[int, str], *, keypoints: bool
) -> None:
    if not label.is_file():
        source.note("images without a label file (no objects)", str(image.path))
        return
    for place, line in _lines(label):
        category = _category(line, names)
        source.boxes_found[split, category] += 1
        texts = line.split()[1:]
        box = _box(texts[:4] if keypoints else texts, category, image.width, image.height)
        if isinstance(box, str):
            source.lose(box, f"{place}: {line[:60]!r}")
            continue
        if keypoints:
            source.note("boxes with keypoints, which are not used", place)
        elif len(texts) > 4:
            source.note("polygons, of which the bounding box is used", place)
        image.boxes.append(box)


def _lose_boxes(source: Source, split: str, label: Path, reason: str, names: dict[int, str]) -> None:
    """Counts the boxes of a label file, if it is there, as lost."""
    lines = _lines(label) if label.is_file() else []
    source.boxes_found.update((split, _category(line, names)) for _, line in lines)
    source.lose(reason, str(label), len(lines))


def _lines(label: Path) -> list[tuple[str, str]]:
    """(place, text) of the lines that are not blank."""
    text = label.read_text("utf-8-sig", "replace")
    return [(f"{label}:{number}", line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _category(line: str, names: dict[int, str]) -> str:
    try:
        number = float(line.split()[0])
        return names.get(int(number), UNKNOWN) if number.is_integer() else UNKNOWN
    except ValueError:
        return UNKNOWN


def _box(texts: Sequence[str], category: str, width: int, height: int) -> SourceBox | str:
    """The box of a line's values after the class, or why it cannot be used."""
    try:
        values = [float(text) for text in texts]
    except ValueError:
        return "lines that are not numbers"
    if not all(map(math.isfinite, values)):
        return "lines that are not finite numbers"
    if category == UNKNOWN:
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
