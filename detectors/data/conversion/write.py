"""Writes a data set that was read from another format in COCO's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .source import Source


def check_target(folder: Path) -> None:
    """OSError if the folder is there and not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already: give a new folder")


def place_images(source: Source, folder: Path, *, copy: bool, progress: bool) -> tuple[int, int]:
    """Puts the images into ``folder/SPLIT``: hard links, or copies where links are not possible or with ``copy``.

    Returns the numbers of links and copies.
    """
    linked = copied = 0
    files = [(split, image) for split, images in source.splits.items() for image in images]
    for split, image in tqdm(files, desc="images", unit="img", disable=not progress, leave=False):
        target = folder / split / image.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if copy or not _link(image.path, target):
            shutil.copyfile(image.path, target)
            copied += 1
        else:
            linked += 1
    return linked, copied


def _link(path: Path, target: Path) -> bool:
    try:
        os.link(os.path.realpath(path), target)
    except OSError:  # another disk, or a file system without hard links
        return False
    return True


def coco_content(source: Source, split: str) -> dict[str, Any]:
    """A split as a COCO detection JSON. All splits have all categories, numbered from 1 in the source's order."""
    categories = {name: key for key, name in enumerate(source.categories, 1)}
    images, annotations = [], []
    for key, image in enumerate(source.splits[split], 1):
        images.append({"id": key, "file_name": image.name, "width": image.width, "height": image.height})
        for box in image.boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": key,
                    "category_id": categories[box.category],
                    "bbox": list(box.xywh),
                    "area": box.xywh[2] * box.xywh[3],
                    "iscrowd": 0,
                }
            )
    return {
        "info": {"description": f"converted from {source.format}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for name, key in categories.items()],
    }
