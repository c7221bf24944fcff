"""COCO-format detection data as a PyTorch data set."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from ..errors import DataError, ImageDecodeError, StarvedLoader
from ..images.decode import FORMATS, decode_image, read_image
from ..images.files import did_you_mean
from ..images.orientation import count_turned
from ..loading.verify import broken_images
from .boxes import BoxTable, likely_form
from .categories import Classes
from .findings import Findings
from .ground_truth import coco_dictionary
from .part import Part
from .present import SHOWN, present_images
from .read import read_coco
from .rows import LOST_WITH_IMAGE, usable_rows

_LOG = logging.getLogger(__name__)


def _first(items: Sequence[str]) -> str:
    return "; ".join(items[:SHOWN]) + ("; ..." if len(items) > SHOWN else "")


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
        categories: names of the categories to use, objects of other categories are omitted; None for all.
        part: the part of the images to use; None for all.
        transforms: called as `transforms(image, target)`, returns both.
        keep_empty: keep images without a non-crowd box (they train as pure background).
        strict: raise on an image that is missing, broken or malformed in the JSON. Otherwise such images are left
            out at the start, and one found broken at load is replaced by the next readable image and its id:
            reported in the target's `skipped`, {file name: why}, and logged once; the run continues.
        cache: read all files into memory at the start (encoded, as they are on disk).
        limit: number of images to use, the first by id, before :meth:`verify`; None for all.
        progress: show a bar while reading.

    Attributes:
        classes: the :class:`~mlc_ext.detectors.data.coco.categories.Classes`: names, ids and labels.
        findings: the :class:`~mlc_ext.detectors.data.coco.findings.Findings`: what was left out or is unusual.
        image_ids: COCO ids of the items, in order.
        name: the annotation file, and the part of it that is used.
        table: the boxes, a :class:`~mlc_ext.detectors.data.coco.boxes.BoxTable`.
        sizes: int64 [n, 2] height and width of the images, from the JSON.

    Raises:
        ValueError: the JSON is not COCO detection data (names what is missing), a file name leads out of
            `image_dir`, no image is left, a chosen category does not exist, or `limit` is below 1; in `strict` mode,
            any malformed or broken image.
        FileNotFoundError: no such file or folder; no image at all; in `strict` mode, any missing image.
    """

    def __init__(
        self,
        image_dir: str | os.PathLike,
        annotation_file: str | os.PathLike,
        transforms: Callable | None = None,
        *,
        categories: Sequence[str] | None = None,
        part: Part | None = None,
        keep_empty: bool = True,
        strict: bool = False,
        cache: bool = False,
        limit: int | None = None,
        progress: bool = False,
    ):
        if limit is not None and limit < 1:
            raise ValueError(f"CocoDetection: limit must be at least 1 or None, got {limit}")
        self.image_dir, self.annotation_file = Path(image_dir), Path(annotation_file)
        self.transforms, self.keep_empty, self.strict = transforms, keep_empty, strict
        if not self.image_dir.is_dir():
            raise FileNotFoundError(f"no image folder {self.image_dir}{did_you_mean(self.image_dir)}")
        content = read_coco(self.annotation_file)
        if strict and content.problems:
            raise ValueError(f"{self.annotation_file}: {_first(content.problems)}")
        if categories is not None:
            content.choose(categories, self.annotation_file)
        self.name = str(self.annotation_file)
        if part is not None:
            self.name += f" ({part})"
            content.keep_images(part, self.name)
        self.classes, self.findings = Classes(content.categories), Findings(content)
        for problem in content.problems[:SHOWN]:
            _LOG.warning("%s: image left out: %s", self.annotation_file, problem)
        images = present_images(content.images, self.image_dir, self.findings, strict=strict)
        rows = usable_rows(content, images, self.classes.category_to_label, self.findings.examples)
        if not keep_empty:
            with_objects = {row.image_id for row in rows if not row.iscrowd}
            if len(images) > len(with_objects):
                self.findings.dropped["images without boxes"] = len(images) - len(with_objects)
            images = {key: entry for key, entry in images.items() if key in with_objects}
        if not images:
            raise ValueError(f"{self.name}: no image left to use ({dict(self.findings.dropped)})")
        self._cache: list[bytes | None] | None = None
        images = dict(list(images.items())[:limit])
        self.table = BoxTable.of_rows(rows, list(images))
        self.image_ids: list[int] = list(images)
        self._names: list[str] = [entry["file_name"] for entry in images.values()]
        self.sizes = np.array([(entry["height"], entry["width"]) for entry in images.values()], dtype=np.int64)
        paths = [self.image_path(index) for index in range(len(self))]
        self.findings.noted.update(count_turned(paths, self.sizes.tolist(), FORMATS))
        if cache:
            indices = tqdm(range(len(self)), desc="reading images", unit="img", disable=not progress, leave=False)
            self._cache = [self._read_quietly(index) for index in indices]
        if self.findings.dropped or self.findings.noted:
            _LOG.info("%s", self.summary())

    def verify(self, *, workers: int = 0, progress: bool = False) -> None:
        """Decodes every image once and leaves the broken ones out, the same on all ranks, which share the work.

        Raises ImageDecodeError if none is left, or with ``strict`` for any broken one.
        """
        self._leave_out(broken_images(self, workers=workers, progress=progress))
        if self.findings.dropped or self.findings.noted:
            _LOG.info("%s", self.summary())

    def _leave_out(self, bad: dict[int, str]) -> None:
        """Removes the images at the indices of `bad`."""
        if not bad:
            return
        if self.strict or len(bad) == len(self):
            raise ImageDecodeError(
                f"{self.annotation_file}: {len(bad)} of {len(self)} images cannot be used: {_first(list(bad.values()))}"
            )
        for problem in list(bad.values())[:SHOWN]:
            _LOG.warning("image left out: %s", problem)
        self.findings.dropped["broken images"] = len(bad)
        if self._cache is not None:
            self._cache = [data for index, data in enumerate(self._cache) if index not in bad]
        kept = np.setdiff1d(np.arange(len(self)), list(bad))
        table = self.table.of_images(kept)
        if len(table) < len(self.table):
            self.findings.dropped[LOST_WITH_IMAGE[1]] = len(self.table) - len(table)
        self.table = table
        self.sizes = self.sizes[kept]
        self.image_ids = [self.image_ids[index] for index in kept]
        self._names = [self._names[index] for index in kept]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, Any]]:
        item = self.untransformed(index)
        return item if self.transforms is None else self.transforms(*item)

    def untransformed(self, index: int) -> tuple[torch.Tensor, dict[str, Any]]:
        """Item `index` before transforms; that of the next readable image in the place of a broken one."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} images")
        index = int(index) % len(self)
        skipped: dict[str, str] = {}
        for step in range(len(self)):
            at, notes = (index + step) % len(self), []
            try:
                image = self.load_image(at, notes.append)
            except (OSError, ImageDecodeError) as error:
                if self.strict:
                    raise
                skipped[self._names[at]] = str(error)
                self.findings.note_broken({self._names[at]: str(error)})
                continue
            target = self.target(at)
            if skipped:
                target["skipped"] = skipped
            if notes:
                target["clipped"] = {self._names[at]: notes[0]}
            return image, target
        shown = _first(list(skipped.values()))
        raise DataError(f"none of the {len(self)} images in {self.image_dir} can be read: {shown}")

    def load_image(self, index: int, note: Callable[[str], None] = _LOG.warning) -> torch.Tensor:
        """Image `index` as uint8 [3, H, W], before transforms; ``note`` is passed to :func:`decode_image`.

        Raises OSError or ImageDecodeError, naming the file, or StarvedLoader at the limit of open files.
        """
        path = self.image_dir / self._names[index]
        try:
            return decode_image(self._read(index), self.image_size(index), lambda text: note(f"{path} {text}"))
        except ImageDecodeError as error:
            raise ImageDecodeError(f"{path} {error}") from error

    def target(self, index: int) -> dict[str, Any]:
        """Target of image `index`, before transforms."""
        return self.table.target(index) | {"image_id": self.image_ids[index], "orig_size": self.image_size(index)}

    def image_size(self, index: int) -> tuple[int, int]:
        """(height, width) of image `index`, from the JSON: no file is opened."""
        height, width = self.sizes[index]
        return int(height), int(width)

    def image_path(self, index: int) -> Path:
        """The path of image `index`."""
        return self.image_dir / self._names[index]

    def aspect_ratios(self) -> np.ndarray:
        """height / width of every image, float64 [len(self)]."""
        return self.sizes[:, 0] / self.sizes[:, 1]

    def _read(self, index: int) -> bytes:
        cached = self._cache[index] if self._cache is not None else None
        if cached is not None:
            return cached
        try:
            return read_image(self.image_path(index))
        except OSError as error:
            if (starved := StarvedLoader.of(error)) is not None:  # the file is not broken
                raise starved from error
            raise

    def _read_quietly(self, index: int) -> bytes | None:
        try:
            return self._read(index)
        except (OSError, ImageDecodeError):
            return None  # reported at load

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def category_names(self) -> list[str]:
        """`category_names[l - 1]` is label l's."""
        return self.classes.names

    @property
    def label_to_category(self) -> dict[int, int]:
        """COCO category ids by label."""
        return self.classes.label_to_category

    @property
    def num_boxes(self) -> int:
        """Usable boxes, crowds too."""
        return len(self.table)

    @property
    def num_objects(self) -> int:
        """Usable boxes without crowds."""
        return int((~self.table.iscrowd).sum())

    def label_as(self, categories: Mapping[int, str], source: str) -> None:
        """Gives the classes the labels 1.. in the order of ``categories`` ({id: name}), those of another set, matched
        by name: ids may differ between files of one data set. Differing ids are listed in `findings.relabeled`.

        Raises:
            ValueError: other classes; ``source`` names the other set.
        """
        try:
            sources = (source, str(self.annotation_file))
            self.classes, labels, moved = self.classes.in_order_of(categories, sources)
        except ValueError as error:
            raise ValueError(f"the categories of {self.annotation_file} are not those of {source}: {error}") from None
        self.table.labels = labels[self.table.labels]
        if moved:
            self.findings.relabeled.append(f"category ids are not those of {source}, matched by name: {_first(moved)}")

    def summary(self) -> str:
        """One line: the size of the data set, and the dropped images and annotations by reason."""
        return (
            f"{self.name}: {len(self)} images, {self.num_boxes} boxes ({self.num_boxes - self.num_objects} "
            f"crowd), {self.num_classes} categories{self.findings.summary()}"
        )

    def warnings(self) -> list[str]:
        """The warnings before a run, each in a line."""
        found = self.findings.warnings(len(self))
        if not self.num_objects:
            found.append("no object is left to learn or to evaluate on")
        if form := likely_form(self.table.file_boxes, self.sizes[self.table.owners]):
            found.append(form)
        return [f"{self.name}: {line}" for line in found]

    def ground_truth(self) -> dict[str, Any]:
        """The annotations in use as a COCO dictionary, with the file's own (unclipped) boxes and areas, for
        evaluation."""
        return coco_dictionary(self.image_ids, self.sizes, self.table, self.classes)
