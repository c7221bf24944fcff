"""Mosaics of four images, of the kind of YOLOv4's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..coco.dataset import CocoDetection
from ..transforms import Target
from .crop import random_crop
from .scale_jitter import ScaleJitter, canvas

FILL = (124, 116, 104)
"""Color of what no image covers: ImageNet's mean."""
_MARGIN = 0.25
"""The point where the four images meet is at least this share of a side away from the border."""
_JOINED = ("boxes", "labels", "iscrowd", "area")


class Mosaic(Dataset):
    """Training images of which a share ``p`` are mosaics until epoch ``end``.

    A mosaic has ``short`` x ``long`` pixels in the orientation of the image that it stands for. That one and three
    others, drawn with replacement, meet at a drawn point; each is resized by ``jitter``, cropped to its part at a drawn
    place, and changed by ``then`` (a flip, for example). Its other fields are the first image's.

    Args:
        images: its own transforms make the items that are no mosaics.
        min_visible: as for :func:`~mlc_ext.detectors.data.augmentation.crop.crop`.
    """

    def __init__(
        self,
        images: CocoDetection,
        jitter: ScaleJitter,
        then: Callable[[Tensor, Target], tuple[Tensor, Target]],
        *,
        short: int,
        long: int,
        p: float,
        end: int,
        min_visible: float,
    ):
        if min(short, long) < 2:
            raise ValueError(f"a mosaic must have at least 2 pixels a side, got {short} x {long}")
        self.dataset, self.jitter, self.then = images, jitter, then
        self.short, self.long, self.p, self.end, self.min_visible = short, long, p, end, min_visible

    def __len__(self) -> int:
        return len(self.dataset)

    def aspect_ratios(self) -> np.ndarray:
        """Of the first images."""
        return self.dataset.aspect_ratios()

    def of_epoch(self, epoch: int) -> Dataset:
        """The data set of an epoch: the images without mosaics from ``end`` on."""
        return self if epoch < self.end else self.dataset

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        if torch.rand(()) >= self.p:
            return self.dataset[index]
        others = torch.randint(len(self.dataset), (3,)).tolist()
        parts = [self.dataset.untransformed(each) for each in (index, *others)]
        return self._joined(parts)

    def _joined(self, parts: list[tuple[Tensor, Target]]) -> tuple[Tensor, Target]:
        height, width = canvas(parts[0][0], self.short, self.long)
        y, x = (_meeting(side) for side in (height, width))
        image = parts[0][0].new_tensor(FILL)[:, None, None].repeat(1, height, width)
        done = []
        for number, (part, target) in enumerate(parts):
            rows = (0, y) if number < 2 else (y, height)
            columns = (0, x) if number % 2 == 0 else (x, width)
            part, target = self.jitter(part, target)
            part, target = random_crop(part, target, rows[1] - rows[0], columns[1] - columns[0], self.min_visible)
            part, target = self.then(part, target)
            # at the meeting point, where a smaller image leaves no gap between the four
            top = rows[1] - part.shape[-2] if number < 2 else y
            left = columns[1] - part.shape[-1] if number % 2 == 0 else x
            image[:, top : top + part.shape[-2], left : left + part.shape[-1]] = part
            offset = target["boxes"].new_tensor([left, top, left, top])
            done.append({**target, "boxes": target["boxes"] + offset})
        whole = {**done[0], **{name: torch.cat([each[name] for each in done]) for name in _JOINED}}
        whole["cut"] = sum(each["cut"] for each in done)
        for notes in ("skipped", "clipped"):
            found = {name: why for each in done for name, why in each.get(notes, {}).items()}
            if found:
                whole[notes] = found
        return image, whole


def _meeting(side: int) -> int:
    """A place along a side of the mosaic, with a pixel or more on both sides of it."""
    return min(max(1, int(side * (_MARGIN + (1 - 2 * _MARGIN) * float(torch.rand(()))))), side - 1)
