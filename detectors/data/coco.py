"""COCO-format detection data as a PyTorch data set."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from .annotations import CocoContent, Row, parse_row, read_coco
from .decode import ImageDecodeError, decode_image, read_image
from .verify import broken_images
from .workers import DataError

_LOG = logging.getLogger(__name__)
_SHOWN = 3  # of many equal faults


def _first(items: Sequence[str], separator: str = "; ") -> str:
    return separator.join(items[:_SHOWN]) + (f"{separator}..." if len(items) > _SHOWN else "")


class CocoDetection(Dataset):
    """Images and boxes of a COCO detection JSON (map-style).

    Item: `(image, target)`, image uint8 [3, H, W] RGB and target a dict of `boxes` float32 [n, 4] (xyxy
    pixels, clipped to the image), `labels` int64 [n] (1..num_classes), `iscrowd` bool [n], `area` float32 [n]
    (the file's, else the box's), `image_id` int and `orig_size` (height, width) as the JSON gives it.

    Labels number the sorted category ids from 1. Annotations that cannot be used - not four finite numbers,
    no area, outside the image, of an unknown image or category - are dropped and counted, see `summary`.
    Crowd boxes are kept with their flag.

    Args:
        image_dir: folder that `file_name` is relative to; a name may not lead out of it (links in it may).
        annotation_file: the JSON.
        categories: names of the categories to use, the others' objects are not there; None for all.
        transforms: called as `transforms(image, target)`, returns both.
        keep_empty: keep images without a non-crowd box (they train as pure background).
        strict: raise on an image that is missing, broken or malformed in the JSON. Otherwise such images are left
            out at the start, and one found broken at load is replaced by the next readable one (its id with it):
            told in the target's `skipped`, {file name: why}, warned of once, never the end of a run.
        verify: decode every image once at the start and leave the broken ones out; ranks of torch.distributed
            share the work.
        cache: read all files into memory at the start (encoded, as they are on disk).
        limit: use only the first so many images by id, after all filtering but `verify`; None for all.
        workers: processes that verify; 0 for this one alone.
        progress: show a bar while verifying or reading.

    Attributes:
        num_classes: count of categories.
        category_names: names by class; `category_names[l - 1]` is label l's.
        label_to_category, category_to_label: label <-> COCO category id.
        image_ids: COCO ids of the items, in order.
        dropped: Counter of what was left out, by reason.
        noted: Counter of what was odd but used.
        broken: {file name: why} of images found unreadable so far (by this process).

    Raises:
        ValueError: the JSON is not COCO detection data (says what is missing), a file name leads out of
            `image_dir`, no image is left, a chosen category is not there, or `limit` is below 1; in `strict` mode, any
            malformed or broken image.
        FileNotFoundError: no such file or folder; no image at all; in `strict` mode, any missing image.
    """

    def __init__(
        self,
        image_dir: str | os.PathLike,
        annotation_file: str | os.PathLike,
        transforms: Callable | None = None,
        *,
        categories: Sequence[str] | None = None,
        keep_empty: bool = True,
        strict: bool = False,
        verify: bool = False,
        cache: bool = False,
        limit: int | None = None,
        workers: int = 0,
        progress: bool = False,
    ):
        if limit is not None and limit < 1:
            raise ValueError(f"CocoDetection: limit must be at least 1 or None, got {limit}")
        self.image_dir, self.annotation_file = Path(image_dir), Path(annotation_file)
        self.transforms, self.keep_empty, self.strict = transforms, keep_empty, strict
        if not self.image_dir.is_dir():
            raise FileNotFoundError(f"no image folder {self.image_dir}")
        content = read_coco(self.annotation_file)
        if strict and content.problems:
            raise ValueError(f"{self.annotation_file}: {_first(content.problems)}")
        if categories is not None:
            try:
                content.choose(categories)
            except ValueError as error:
                raise ValueError(f"{self.annotation_file}: {error}") from None
        self.dropped: Counter[str] = content.dropped
        self.noted: Counter[str] = content.noted
        self.broken: dict[str, str] = {}
        for problem in content.problems[:_SHOWN]:
            _LOG.warning("%s: image left out: %s", self.annotation_file, problem)

        self.category_names: list[str] = list(content.categories.values())
        self.num_classes = len(content.categories)
        self.label_to_category: dict[int, int] = dict(enumerate(content.categories, start=1))
        self.category_to_label: dict[int, int] = {entry: label for label, entry in self.label_to_category.items()}

        images = self._present(content.images)
        rows = self._usable(content, images)
        if not keep_empty:
            with_objects = {row.image_id for row in rows if not row.iscrowd}
            if len(images) > len(with_objects):
                self.dropped["images without boxes"] = len(images) - len(with_objects)
            images = {key: entry for key, entry in images.items() if key in with_objects}
        if not images:
            raise ValueError(f"{self.annotation_file}: no image left to use ({dict(self.dropped)})")
        self._cache: list[bytes | None] | None = None
        images = dict(list(images.items())[:limit])
        self._store(images, rows)
        if cache:
            indices = tqdm(range(len(self)), desc="reading images", unit="img", disable=not progress, leave=False)
            self._cache = [self._read_quietly(index) for index in indices]
        if verify:
            self.verify(workers=workers, progress=progress)
        elif self.dropped or self.noted:
            _LOG.warning("%s", self.summary())

    # -- reading the JSON
    # ------------------------------------------------------------------------------------------------

    def _present(self, entries: dict[int, dict]) -> dict[int, dict]:
        """Images whose files exist, by id, in the order of their ids."""
        with os.scandir(self.image_dir) as listing:
            files = {entry.name for entry in listing if _is_file(entry)}
        present, missing = {}, []
        for image_id, entry in entries.items():
            name = entry["file_name"]
            # one listing of the folder serves a flat set; only names with a folder cost a look at the disk
            # each
            if name in files or ("/" in name and os.path.isfile(self.image_dir / name)):
                present[image_id] = entry
            else:
                missing.append(name)
        if missing and (self.strict or not present):
            raise FileNotFoundError(
                f"{len(missing)} of {len(entries)} images are not in {self.image_dir}: {_first(missing, ', ')}"
            )
        if missing:
            self.dropped["missing images"] = len(missing)
        return present

    def _usable(self, content: CocoContent, images: dict[int, dict]) -> list[Row]:
        rows = []
        for annotation in content.annotations:
            row = parse_row(annotation, images, content, self.category_to_label, self.noted)
            if isinstance(row, str):
                self.dropped[row] += 1
            else:
                rows.append(row)
        if not content.annotations:
            self.noted["file without annotations"] = 1
        return rows

    def _store(self, images: dict[int, dict], rows: list[Row]) -> None:
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
        self._names: list[str] = [entry["file_name"] for entry in images.values()]
        self._sizes = np.array([(entry["height"], entry["width"]) for entry in images.values()], dtype=np.int64)

    def verify(self, *, workers: int = 0, progress: bool = False) -> None:
        """Decodes every image once and leaves the broken ones out, the same on all ranks, which share the work.

        Raises ImageDecodeError if none is left, or with ``strict`` for any broken one.
        """
        self._leave_out(broken_images(self, workers=workers, progress=progress))
        if self.dropped or self.noted:
            _LOG.warning("%s", self.summary())

    def _leave_out(self, bad: dict[int, str]) -> None:
        """Goes on without the images at the indices of `bad`."""
        if not bad:
            return
        if self.strict or len(bad) == len(self):
            raise ImageDecodeError(
                f"{self.annotation_file}: {len(bad)} of {len(self)} images cannot be used: {_first(list(bad.values()))}"
            )
        for problem in list(bad.values())[:_SHOWN]:
            _LOG.warning("image left out: %s", problem)
        self.dropped["broken images"] = len(bad)
        if self._cache is not None:
            self._cache = [data for index, data in enumerate(self._cache) if index not in bad]
        kept = np.setdiff1d(np.arange(len(self)), list(bad))
        counts = np.diff(self._offsets)
        kept_rows = np.isin(np.repeat(np.arange(len(self)), counts), kept)
        if not kept_rows.all():
            self.dropped["annotations of broken images"] = int((~kept_rows).sum())
        for name in ("_boxes", "_file_boxes", "_labels", "_areas", "_iscrowd"):
            setattr(self, name, getattr(self, name)[kept_rows])
        self._offsets = np.concatenate([[0], np.cumsum(counts[kept])])
        self._sizes = self._sizes[kept]
        self.image_ids = [self.image_ids[index] for index in kept]
        self._names = [self._names[index] for index in kept]

    # -- items
    # ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, Any]]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} images")
        index = int(index) % len(self)
        skipped: dict[str, str] = {}
        for step in range(len(self)):
            at = (index + step) % len(self)
            try:
                image = self.load_image(at)
            except (OSError, ImageDecodeError) as error:
                if self.strict:
                    raise
                skipped[self._names[at]] = str(error)
                self.note_broken({self._names[at]: str(error)})
                continue
            target = self.target(at)
            if skipped:
                target["skipped"] = skipped
            return (image, target) if self.transforms is None else self.transforms(image, target)
        shown = _first(list(skipped.values()))
        raise DataError(f"none of the {len(self)} images in {self.image_dir} can be read: {shown}")

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
        return read_image(self.image_path(index)) if cached is None else cached

    def _read_quietly(self, index: int) -> bytes | None:
        try:
            return read_image(self.image_path(index))
        except (OSError, ImageDecodeError):
            return None  # met again, and dealt with, at load

    def note_broken(self, broken: Mapping[str, str]) -> None:
        """Takes {file name: why} of images found unreadable, by a worker process say, into `broken`."""
        for name, why in broken.items():
            if name not in self.broken:
                self.broken[name] = why
                if torch.utils.data.get_worker_info() is None:  # the main process hears of it, and tells
                    _LOG.warning("image skipped: %s", why)

    # -- what the set holds
    # ----------------------------------------------------------------------------------------------

    @property
    def num_objects(self) -> int:
        """Usable boxes that are no crowd's."""
        return int((~self._iscrowd).sum())

    def summary(self) -> str:
        """One paragraph: what is in the set, and what was dropped and why."""
        crowd = int(self._iscrowd.sum())
        text = (
            f"{self.annotation_file}: {len(self)} images, {len(self._labels)} boxes ({crowd} crowd), "
            f"{self.num_classes} categories"
        )
        left_out = [f"{count} {reason}" for reason, count in sorted(self.dropped.items()) if count]
        if self.broken:
            left_out.append(f"{len(self.broken)} broken images met while loading")
        text += "; dropped: " + ", ".join(left_out) if left_out else ""
        odd = [f"{count} {reason}" for reason, count in sorted(self.noted.items())]
        return text + ("; noted: " + ", ".join(odd) if odd else "")

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


def _is_file(entry: os.DirEntry) -> bool:
    """Not a pipe or a device: reading it might never end."""
    try:
        return entry.is_file()
    except OSError:  # a link that leads round in a circle, say
        return False
