"""COCO-format detection data as a PyTorch data set."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .images import ImageDecodeError, decode_image
from .paths import DatasetPaths, find_dataset

__all__ = ["CocoDetection", "DatasetPaths", "find_dataset"]

_LOG = logging.getLogger(__name__)


class CocoDetection(Dataset):
    """Images and boxes of a COCO detection JSON (map-style).

    Item: `(image, target)`, image uint8 [3, H, W] RGB and target a dict of `boxes` float32 [n, 4] (xyxy
    pixels, clipped to the image), `labels` int64 [n] (1..num_classes), `iscrowd` bool [n], `area` float32 [n]
    (the file's, else the box's), `image_id` int and `orig_size` (height, width) as the JSON gives it.

    Labels number the sorted category ids from 1. Annotations that cannot be used - not four finite numbers,
    no area, outside the image, of an unknown image or category - are dropped and counted, see `summary`.
    Crowd boxes are kept with their flag.

    Args:
        image_dir: folder that `file_name` is relative to; a name may not lead out of it.
        annotation_file: the JSON.
        transforms: called as `transforms(image, target)`, returns both.
        keep_empty: keep images without a non-crowd box (they train as pure background).
        strict: raise on a missing or broken image. Otherwise missing images are left out at the start, and
            one found broken at load is replaced by the next readable one (its id with it): warned of once,
            counted in `broken` (in each worker process for itself), never the end of a run.
        cache: read all files into memory at the start (encoded, as they are on disk).
        limit: use only the first so many images by id, after all filtering; None for all.

    Attributes:
        num_classes: count of categories.
        category_names: names by class; `category_names[l - 1]` is label l's.
        label_to_category, category_to_label: label <-> COCO category id.
        image_ids: COCO ids of the items, in order.
        dropped: Counter of what was left out, by reason.
        broken: {file name: why} of images found unreadable so far.

    Raises:
        ValueError: the JSON is not COCO detection data (says what is missing), a file name leads out of
            `image_dir`, or `limit` is below 1.
        FileNotFoundError: no such file or folder; no image at all; in `strict` mode, any image.
    """

    def __init__(
        self,
        image_dir: str | os.PathLike,
        annotation_file: str | os.PathLike,
        transforms: Callable | None = None,
        *,
        keep_empty: bool = True,
        strict: bool = False,
        cache: bool = False,
        limit: int | None = None,
    ):
        if limit is not None and limit < 1:
            raise ValueError(f"CocoDetection: limit must be at least 1 or None, got {limit}")
        self.image_dir, self.annotation_file = Path(image_dir), Path(annotation_file)
        self.transforms, self.keep_empty, self.strict = transforms, keep_empty, strict
        if not self.image_dir.is_dir():
            raise FileNotFoundError(f"no image folder {self.image_dir}")
        content = _read_coco(self.annotation_file)
        self.dropped: Counter[str] = Counter()
        self.broken: dict[str, str] = {}

        categories = sorted(content["categories"], key=lambda category: category["id"])
        self.category_names: list[str] = [
            str(category.get("name", category["id"])) for category in categories
        ]
        self.num_classes = len(categories)
        self.label_to_category: dict[int, int] = {k + 1: entry["id"] for k, entry in enumerate(categories)}
        self.category_to_label: dict[int, int] = {
            entry: label for label, entry in self.label_to_category.items()
        }

        images = self._present(content["images"])
        rows = self._usable(content["annotations"], images, {entry["id"] for entry in content["images"]})
        if not keep_empty:
            with_objects = {row.image_id for row in rows if not row.iscrowd}
            if len(images) > len(with_objects):
                self.dropped["images without boxes"] = len(images) - len(with_objects)
            images = {key: entry for key, entry in images.items() if key in with_objects}
        if not images:
            raise ValueError(f"{self.annotation_file}: no image left to use ({dict(self.dropped)})")
        self._store(dict(list(images.items())[:limit]), rows)
        self._cache: list[bytes | None] | None = None
        if cache:
            self._cache = [self._read_quietly(index) for index in range(len(self))]
        if self.dropped:
            _LOG.warning("%s", self.summary())

    # -- reading the JSON
    # ------------------------------------------------------------------------------------------------

    def _present(self, entries: list[dict]) -> dict[int, dict]:
        """Images whose files exist, by id, in the order of their ids."""
        listing = set(os.listdir(self.image_dir))
        present, missing = {}, []
        for entry in sorted(entries, key=lambda entry: entry["id"]):
            name = entry["file_name"]
            _check_inside(name, self.annotation_file)
            # one listing of the folder serves a flat set; only names with a folder cost a look at the disk
            # each
            if name in listing or ("/" in name and (self.image_dir / name).is_file()):
                present[entry["id"]] = entry
            else:
                missing.append(name)
        if missing and (self.strict or not present):
            shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise FileNotFoundError(
                f"{len(missing)} of {len(entries)} images are not in {self.image_dir}: {shown}"
            )
        if missing:
            self.dropped["missing images"] = len(missing)
        return present

    def _usable(self, annotations: list, images: dict[int, dict], known_images: set[int]) -> list[_Row]:
        rows = []
        for annotation in annotations:
            row = self._parse(annotation, images, known_images)
            if isinstance(row, str):
                self.dropped[row] += 1
            else:
                rows.append(row)
        return rows

    def _parse(self, annotation: Any, images: dict[int, dict], known_images: set[int]) -> _Row | str:
        """The usable form of an annotation, or the reason to drop it."""
        if not isinstance(annotation, Mapping):
            return "malformed annotations"
        image_id, category = annotation.get("image_id"), annotation.get("category_id")
        if not _is_id(image_id) or image_id not in known_images:
            return "annotations of unknown images"
        if image_id not in images:
            return "annotations of missing images"
        if not _is_id(category) or category not in self.category_to_label:
            return "annotations of unknown categories"
        box = _numbers(annotation.get("bbox"), 4)
        if box is None:
            return "malformed boxes"
        x, y, w, h = box
        if w <= 0 or h <= 0:
            return "boxes without area"
        width, height = images[image_id]["width"], images[image_id]["height"]
        corners = np.clip([x, y, x + w, y + h], 0, [width, height, width, height])
        clipped = corners.astype(np.float32)
        # judged in float32, the precision that training sees
        if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
            return "boxes outside the image"
        area = _numbers([annotation.get("area")], 1)
        size = float((clipped[2] - clipped[0]) * (clipped[3] - clipped[1]))
        return _Row(
            image_id,
            self.category_to_label[category],
            clipped,
            box,
            area[0] if area is not None and area[0] > 0 else size,
            annotation.get("iscrowd") in (1, True),
        )

    def _store(self, images: dict[int, dict], rows: list[_Row]) -> None:
        # Flat arrays: a list of objects per image would be copied page by page into every worker.
        position = {image_id: k for k, image_id in enumerate(images)}
        rows = [row for row in rows if row.image_id in position]
        rows.sort(key=lambda row: position[row.image_id])  # stable: the file's order within an image
        counts = np.bincount([position[row.image_id] for row in rows], minlength=len(images)).astype(np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(counts)])
        self._boxes = np.array([row.box for row in rows], dtype=np.float32).reshape(-1, 4)
        self._file_boxes = np.array([row.file_box for row in rows], dtype=np.float64).reshape(-1, 4)
        self._labels = np.array([row.label for row in rows], dtype=np.int64)
        self._areas = np.array([row.area for row in rows], dtype=np.float64)
        self._iscrowd = np.array([row.iscrowd for row in rows], dtype=bool)
        self.image_ids: list[int] = list(images)
        self._names = [entry["file_name"] for entry in images.values()]
        self._sizes = np.array(
            [(entry["height"], entry["width"]) for entry in images.values()], dtype=np.int64
        )

    # -- items -----------------------------------------------------------------------------------------------
    # ------------

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, Any]]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} images")
        index = int(index) % len(self)
        for step in range(len(self)):
            at = (index + step) % len(self)
            try:
                image = self.load_image(at)
            except (OSError, ImageDecodeError) as error:
                if self.strict:
                    raise
                self._note_broken(at, error)
                continue
            target = self.target(at)
            return (image, target) if self.transforms is None else self.transforms(image, target)
        raise RuntimeError(f"none of the {len(self)} images in {self.image_dir} can be read")

    def load_image(self, index: int) -> torch.Tensor:
        """Image `index` as uint8 [3, H, W], before transforms. Raises OSError or ImageDecodeError, naming the
        file."""
        path = self.image_dir / self._names[index]
        try:
            return decode_image(self._read(index), self.image_size(index))
        except ImageDecodeError as error:
            raise ImageDecodeError(f"{path} {error}") from error

    def target(self, index: int) -> dict[str, Any]:
        """Target of image `index`, before transforms."""
        rows = slice(self._offsets[index], self._offsets[index + 1])
        return {
            "boxes": torch.tensor(self._boxes[rows]),
            "labels": torch.tensor(self._labels[rows]),
            "iscrowd": torch.tensor(self._iscrowd[rows]),
            "area": torch.tensor(self._areas[rows], dtype=torch.float32),
            "image_id": self.image_ids[index],
            "orig_size": self.image_size(index),
        }

    def image_size(self, index: int) -> tuple[int, int]:
        """(height, width) of image `index`, from the JSON: no file is opened."""
        height, width = self._sizes[index]
        return int(height), int(width)

    def image_path(self, index: int) -> Path:
        """Where the file of image `index` lies."""
        return self.image_dir / self._names[index]

    def aspect_ratios(self) -> np.ndarray:
        """height / width of every image, float64 [len(self)]."""
        return self._sizes[:, 0] / self._sizes[:, 1]

    def _read(self, index: int) -> bytes:
        cached = self._cache[index] if self._cache is not None else None
        return self.image_path(index).read_bytes() if cached is None else cached

    def _read_quietly(self, index: int) -> bytes | None:
        try:
            return self.image_path(index).read_bytes()
        except OSError:
            return None  # met again, and dealt with, at load

    def _note_broken(self, index: int, error: Exception) -> None:
        name = self._names[index]
        if name not in self.broken:
            self.broken[name] = str(error)
            _LOG.warning("image skipped: %s", error)

    # -- what the set holds
    # ----------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """One paragraph: what is in the set, and what was dropped and why."""
        crowd = int(self._iscrowd.sum())
        text = (
            f"{self.annotation_file}: {len(self)} images, {len(self._labels)} boxes ({crowd} crowd), "
            f"{self.num_classes} categories"
        )
        left_out = [f"{count} {reason}" for reason, count in sorted(self.dropped.items()) if count]
        if self.broken:
            left_out.append(f"{len(self.broken)} broken images")
        return text + ("; dropped: " + ", ".join(left_out) if left_out else "")

    def ground_truth(self) -> dict[str, Any]:
        """The annotations in use as a COCO dictionary, with the file's own (unclipped) boxes and areas, for
        evaluation. Annotation ids count from 1: pycocotools takes a match with id 0 for none."""
        owner = np.repeat(np.arange(len(self)), np.diff(self._offsets))
        annotations = [
            {
                "id": k + 1,
                "image_id": self.image_ids[owner[k]],
                "category_id": self.label_to_category[int(self._labels[k])],
                "bbox": self._file_boxes[k].tolist(),
                "area": float(self._areas[k]),
                "iscrowd": int(self._iscrowd[k]),
            }
            for k in range(len(self._labels))
        ]
        return {
            "info": {},
            "images": [
                {"id": image_id, "height": int(h), "width": int(w)}
                for image_id, (h, w) in zip(self.image_ids, self._sizes, strict=True)
            ],
            "annotations": annotations,
            "categories": [
                {"id": category, "name": self.category_names[label - 1]}
                for label, category in self.label_to_category.items()
            ],
        }


@dataclass
class _Row:
    image_id: int
    label: int
    box: np.ndarray  # xyxy, clipped
    file_box: Sequence[float]  # xywh, as in the file
    area: float
    iscrowd: bool


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers(values: Any, count: int) -> list[float] | None:
    """`values` as `count` finite floats, or None."""
    if not isinstance(values, (list, tuple)) or len(values) != count:
        return None
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        return None
    try:
        numbers = [float(v) for v in values]
    except OverflowError:
        return None
    return numbers if all(math.isfinite(v) for v in numbers) else None


def _read_coco(path: Path) -> dict[str, list]:
    """Reads and checks a COCO detection JSON; ValueError says what is wrong or missing."""
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file {path}")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not COCO detection data: a {type(content).__name__}, not an object")
    missing = [
        key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)
    ]
    if missing:
        raise ValueError(f"{path} is not COCO detection data: no list {', '.join(missing)}")
    for key, fields in (("images", ("id", "file_name", "width", "height")), ("categories", ("id",))):
        if not content[key]:
            raise ValueError(f"{path}: {key} is empty")
        for k, entry in enumerate(content[key]):
            absent = [f for f in fields if f not in entry] if isinstance(entry, dict) else list(fields)
            if absent:
                raise ValueError(f"{path}: {key}[{k}] has no {', '.join(absent)}")
            if not _is_id(entry["id"]):
                raise ValueError(f"{path}: {key}[{k}] has id {entry['id']!r}, which is not an integer")
        counts = Counter(entry["id"] for entry in content[key])
        repeated = [entry for entry, count in counts.items() if count > 1]
        if repeated:
            raise ValueError(f"{path}: {key} has id {repeated[0]} more than once")
    for entry in content["images"]:
        if not all(_is_id(entry[side]) and 0 < entry[side] < 2**31 for side in ("width", "height")):
            raise ValueError(f"{path}: image {entry['id']} has size {entry['width']!r} x {entry['height']!r}")
    return content


def _check_inside(name: Any, source: Path) -> None:
    """Refuses a file name that could lead out of the image folder, on any system (purely by its text: links
    are fine)."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"{source}: {name!r} is not a file name")
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise ValueError(f"{source}: file_name {name!r} leads out of the image folder")
