"""What a detector finds on an image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from ..visualization.drawing import draw_detections
from .pixels import Source, read_pixels

MAX_DRAWN = 100
"""Boxes drawn on an image, those with the highest scores."""


@dataclass(frozen=True)
class Classes:
    """The classes of a detector: those of label l are `names[l - 1]` and `category_ids[l - 1]`."""

    names: list[str]
    category_ids: list[int]
    """Of the training data in COCO's format."""
    agnostic: bool = False
    """Whether the detector proposes boxes of one class, "object"."""


class Detection(NamedTuple):
    """One object of :class:`Detections`."""

    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels."""
    score: float
    """0..1"""
    label: int
    """From 1."""
    name: str
    """Of the class."""


@dataclass(eq=False)
class Detections:
    """The objects found on one image, the highest score first. ``len()`` is their number; iterating over it gives a
    :class:`Detection` of each.

    Boxes are in pixels of the image as viewers show it: where a file has an EXIF orientation, of the turned image.
    """

    boxes: Tensor
    """float32 [n, 4]: x1, y1, x2, y2."""
    scores: Tensor
    """float32 [n], in 0..1."""
    labels: Tensor
    """int64 [n], from 1."""
    image_size: tuple[int, int]
    """Height and width."""
    classes: Classes
    """Of the detector."""
    source: Source = field(repr=False)
    """The image that was given. It is not copied: :meth:`draw` reads it again."""
    image_id: int = 1
    """The number in the file's name, if all files of the call are named by distinct numbers; else its position, from
    1."""

    @property
    def names(self) -> list[str]:
        """The class names of the objects, n of them."""
        return [self.classes.names[label - 1] for label in self.labels.tolist()]

    @property
    def path(self) -> Path | None:
        """The image's file; None for an image that was given itself."""
        return Path(self.source) if isinstance(self.source, (str, os.PathLike)) else None

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        columns = self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), self.names
        for box, score, label, name in zip(*columns, strict=True):
            x1, y1, x2, y2 = box
            yield Detection((x1, y1, x2, y2), score, label, name)

    def __repr__(self) -> str:
        found = ", ".join(f"{count} {name}" for name, count in Counter(self.names).items())
        height, width = self.image_size
        where = ", ".join(f"{key} {value}" for key, value in self._place().items() if key != "file_name")
        where = ", ".join(filter(None, [str(self.path or "an image"), where]))
        return f"<Detections on {where}, {width} x {height}: {found or 'nothing'}>"

    def _place(self) -> dict[str, Any]:
        """Where the image is from, for rows of JSON."""
        return {} if self.path is None else {"file_name": str(self.path)}

    def draw(self, width: int | None = None) -> Image.Image:
        """The image with the boxes, names and scores of the 100 highest scores.

        An image of less than 640 pixels is enlarged by a whole factor, so that the text fits.

        Args:
            width: of the lines, in pixels of the drawing; by default it grows with the drawing.

        Raises:
            OSError: the image's file cannot be read any more.
            ValueError: it is not an image any more.
        """
        return self.draw_on(read_pixels(self.source), width)

    def draw_on(self, image: Tensor, width: int | None = None) -> Image.Image:
        """:meth:`draw` on the image's pixels, uint8 [3, H, W]."""
        best = {"boxes": self.boxes, "labels": self.labels, "scores": self.scores}
        best = {key: value[:MAX_DRAWN] for key, value in best.items()}
        return draw_detections(image, best, None if self.classes.agnostic else self.classes.names, width=width)

    def save(self, path: str | os.PathLike[str], width: int | None = None) -> None:
        """Writes :meth:`draw` to a file, in the format of its suffix; its folder is made.

        Raises:
            OSError: it cannot be written.
            ValueError: a suffix that Pillow does not know.
        """
        drawing = self.draw(width)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        drawing.save(path)

    def to_coco(self) -> list[dict[str, Any]]:
        """The objects as rows of COCO's results format (boxes are x, y, width, height), with file and class names."""
        place = self._place()
        return [
            {
                "image_id": self.image_id,
                **place,
                "category_id": self.classes.category_ids[label - 1],
                "category": name,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for (x1, y1, x2, y2), score, label, name in self
        ]


@dataclass(eq=False, repr=False, kw_only=True)
class FrameDetections(Detections):
    """The :class:`Detections` on a frame of a video. ``source`` has the frame's pixels, uint8 [3, H, W]: results that
    are kept, for example in a list, keep the frames in memory.

    Boxes are in pixels of the frame as players show it: turned, where the file has a rotation.
    """

    file: Path
    """The video."""
    frame: int
    """The frame's number in the video, from 0."""
    time: float
    """When it is shown, in seconds from the start of the file."""

    @property
    def path(self) -> Path:
        """The video."""
        return self.file

    def _place(self) -> dict[str, Any]:
        return {**super()._place(), "frame": self.frame, "time": self.time}


class Results(list[Detections]):
    """The :class:`Detections` of several images, in the order of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: dict[Path, str] = {}
        """Files of a folder or pattern that could not be read, which have no entry in the list, and why; also folders
        that could not be listed."""
