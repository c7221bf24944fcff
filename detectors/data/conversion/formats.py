"""Recognizes the format of a data set that is not in COCO's."""

from __future__ import annotations

from pathlib import Path

YOLO, VOC = "YOLO", "Pascal VOC"

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


def foreign_format(folder: Path) -> str | None:
    """YOLO, VOC or None, by the files that are there."""
    if not folder.is_dir():
        return None
    if yolo_yaml(folder) is not None or (folder / "labels").is_dir():
        return YOLO
    return VOC if voc_folders(folder) else None


def yolo_yaml(folder: Path) -> Path | None:
    """The data.yaml of a data set: by its usual names, else the only YAML beside ``images/`` and ``labels/``."""
    for name in YAML_NAMES:
        if (folder / name).is_file():
            return folder / name
    others = [*folder.glob("*.yaml"), *folder.glob("*.yml")] if (folder / "labels").is_dir() else []
    return others[0] if len(others) == 1 else None


def voc_folders(folder: Path) -> list[Path]:
    """The folders with XML files: ``Annotations`` of the folder or of VOC's own VOCdevkit/VOC*; else the folder and its
    subfolders that have XML files beside images (Roboflow)."""
    own = [path for pattern in ("Annotations", "VOC*/Annotations", "VOCdevkit/VOC*/Annotations")
           for path in sorted(folder.glob(pattern)) if path.is_dir()]  # fmt: skip
    if own:
        return own
    inner = sorted(path for path in folder.iterdir() if path.is_dir())
    return [path for path in (folder, *inner) if next(path.glob("*.xml"), None) is not None]
