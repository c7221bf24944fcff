"""Recognizes the format of a data set that is not in COCO's."""

from __future__ import annotations

from pathlib import Path

YOLO, VOC = "YOLO", "Pascal VOC"

_YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


def foreign_format(folder: Path) -> str | None:
    """YOLO, VOC or None, by the files that are there."""
    if not folder.is_dir():
        return None
    if yolo_yaml(folder) is not None or _labels(folder) or class_files(folder):
        return YOLO
    return VOC if voc_folders(folder) else None


def yolo_yaml(folder: Path) -> Path | None:
    """The data.yaml of a data set: by its usual names, else the only YAML beside ``images/`` and ``labels/``."""
    for name in _YAML_NAMES:
        if (folder / name).is_file():
            return folder / name
    others = [*folder.glob("*.yaml"), *folder.glob("*.yml")] if _labels(folder) else []
    return others[0] if len(others) == 1 else None


def _labels(folder: Path) -> bool:
    return any(path.is_dir() for path in (folder / "labels", *folder.glob("*/labels")))


def class_files(folder: Path) -> list[Path]:
    """The files that name YOLO's classes, a name in each line: labelImg's and Label Studio's, and Darknet's."""
    patterns = ("classes.txt", "*.names", "labels/classes.txt", "*/classes.txt", "*/labels/classes.txt")
    return [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]


def voc_folders(folder: Path) -> list[Path]:
    """The folders with XML files.

    They are looked for in the folder, its subfolders and VOC's own VOCdevkit/VOC*: in each, ``Annotations`` or
    ``annotations``, else the folder itself, if XML files are in it (Roboflow writes them beside the images).
    """
    inner = [path for path in _folders(folder) if not is_annotations(path)]
    found = []
    for place in (folder, *inner, *sorted(folder.glob("VOCdevkit/VOC*"))):
        own = [path for path in _folders(place) if is_annotations(path) and any(path.rglob("*.xml"))]
        found += own or [place] * any(place.glob("*.xml"))
    return found


def is_annotations(folder: Path) -> bool:
    """Whether it is a folder for annotations alone, by its name."""
    return folder.name.lower() == "annotations"


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if path.is_dir())
    except OSError:  # not readable, or not a folder
        return []
