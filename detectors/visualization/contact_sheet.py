"""Images of a data set with their boxes, in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..data.coco.dataset import CocoDetection
from ..data.errors import ImageDecodeError
from ..printable import printable
from .drawing import class_color, draw_boxes

_TILE = 640
_COLUMNS = 3
_BAR = 24
_LONGEST = 3  # largest ratio of the sides of the part of an image that is shown
_VISIBLE = 12  # pixels of a tile that the shorter side of the median box has at least
_SMALLEST = 64  # pixels of a side of the part that is shown
_NAMED = 40  # boxes of a tile with a name
_GAP = 6
_BACKGROUND = (32, 32, 32)


def contact_sheet(datasets: Sequence[tuple[str, CocoDetection]], count: int) -> Image.Image:
    """About ``count`` images that have boxes, evenly over their ids; three quarters are of the first data set.

    Boxes are drawn with class names. Below each image are the split, the file name and the number of boxes. Crowds are
    marked. Only a part is shown of very tall or wide images, and of images with tiny boxes.
    """
    tiles = []
    for k, (name, dataset) in enumerate(datasets):
        share = count if len(datasets) == 1 else (count - count // 4, count // 4)[k]
        tiles += [_tile(name, dataset, index) for index in _chosen(dataset, max(1, share))]
    rows = [tiles[start : start + _COLUMNS] for start in range(0, len(tiles), _COLUMNS)]
    heights = [max(tile.height for tile in row) for row in rows]
    sheet = Image.new("RGB", (_COLUMNS * (_TILE + _GAP) + _GAP, sum(heights) + _GAP * (len(rows) + 1)), _BACKGROUND)
    y = _GAP
    for row, height in zip(rows, heights, strict=True):
        for k, tile in enumerate(row):
            sheet.paste(tile, (_GAP + k * (_TILE + _GAP), y))
        y += height + _GAP
    return sheet


def _chosen(dataset: CocoDetection, count: int) -> list[int]:
    with_boxes = np.unique(dataset.table.owners)
    among = with_boxes if len(with_boxes) else np.arange(len(dataset))
    places = np.unique(np.linspace(0, len(among) - 1, min(count, len(among))).astype(int))
    return among[places].tolist()


def _tile(split: str, dataset: CocoDetection, index: int) -> Image.Image:
    target = dataset.target(index)
    boxes, count = target["boxes"], len(target["labels"])
    caption = f"{split}: {dataset.image_path(index).name}, {count} box{'' if count == 1 else 'es'}"
    try:
        image = dataset.load_image(index)
    except (OSError, ImageDecodeError):
        picture, caption = Image.new("RGB", (_TILE, _TILE // 4)), f"{caption}, cannot be read"
    else:
        left, top, right, bottom = _window(boxes, *target["orig_size"])
        inside = (boxes[:, 0] < right) & (boxes[:, 1] < bottom) & (boxes[:, 2] > left) & (boxes[:, 3] > top)
        sides = boxes[:, 2:] - boxes[:, :2]
        shown = sorted(inside.nonzero()[:, 0].tolist(), key=lambda k: float(sides[k].prod()))  # the smallest on top
        if (bottom - top, right - left) != tuple(image.shape[1:]):
            caption += f", {len(shown)} in this part of {image.shape[2]} x {image.shape[1]} pixels"
        image = image[:, top:bottom, left:right]
        scale = min(1.0, _TILE / max(image.shape[1:]))
        if scale < 1:
            size = (max(1, round(image.shape[2] * scale)), max(1, round(image.shape[1] * scale)))
            small = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.BILINEAR)
            image = image.new_tensor(np.asarray(small)).permute(2, 0, 1)
        labels, crowds = target["labels"].tolist(), target["iscrowd"].tolist()
        names = [dataset.category_names[labels[k] - 1] + " (crowd)" * crowds[k] for k in shown]
        if len(names) > _NAMED:
            names[:-_NAMED] = [""] * (len(names) - _NAMED)
            caption += f", names of the {_NAMED} largest"
        picture = draw_boxes(
            image,
            (boxes[shown] - boxes.new_tensor([left, top, left, top])) * scale,
            [class_color(labels[k]) for k in shown],
            names,
        )
        picture.thumbnail((_TILE, _TILE))
    tile = Image.new("RGB", (_TILE, picture.height + _BAR), _BACKGROUND)
    tile.paste(picture, ((_TILE - picture.width) // 2, 0))
    caption = printable(caption)
    font = ImageFont.load_default(14)
    while len(caption) > 8 and font.getlength(caption) > _TILE - 8:
        caption = f"{caption[: len(caption) // 2 - 2]}...{caption[len(caption) // 2 + 2 :]}"
    ImageDraw.Draw(tile).text((4, picture.height + 3), caption, fill=(255, 255, 255), font=font)
    return tile


def _window(boxes: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """left, top, right, bottom of the part that is shown: the whole image, unless it is very tall or wide, or half of
    its boxes would be too small to see; then a part around the box that is nearest to the middle of all."""
    wide, high = min(width, _LONGEST * height), min(height, _LONGEST * width)
    if not len(boxes):
        return 0, 0, wide, high
    sides = (boxes[:, 2:] - boxes[:, :2]).min(1).values
    zoom = float(sides.median()) * _TILE / (_VISIBLE * max(wide, high))
    if zoom < 1:
        wide, high = (min(side, max(_SMALLEST, round(side * zoom))) for side in (wide, high))
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    x, y = centers[(centers - centers.median(0).values).square().sum(1).argmin()].tolist()
    left, top = min(max(0, round(x - wide / 2)), width - wide), min(max(0, round(y - high / 2)), height - high)
    return left, top, left + wide, top + high
