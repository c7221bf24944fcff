"""Images of a data set with their boxes, in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.coco.dataset import CocoDetection
from ..data.errors import ImageDecodeError
from .drawing import class_color, draw_boxes

_TILE = 640
_COLUMNS = 3
_BAR = 24
_GAP = 6
_BACKGROUND = (32, 32, 32)


def contact_sheet(datasets: Sequence[tuple[str, CocoDetection]], count: int) -> Image.Image:
    """About ``count`` images, three quarters of the first data set's: those with objects, evenly over their ids.

    Each has its boxes with class names, and below it the split, file name and number of boxes. A crowd is marked.
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
    return [
        int(index) for index in among[np.unique(np.linspace(0, len(among) - 1, min(count, len(among))).astype(int))]
    ]


def _tile(split: str, dataset: CocoDetection, index: int) -> Image.Image:
    target = dataset.target(index)
    caption = f"{split}: {dataset.image_path(index).name}, {len(target['labels'])} boxes"
    try:
        image = dataset.load_image(index)
    except (OSError, ImageDecodeError):
        picture, caption = Image.new("RGB", (_TILE, _TILE // 4)), f"{caption}, cannot be read"
    else:
        scale = _TILE / max(image.shape[1:])
        if scale < 1:
            size = (max(1, round(image.shape[2] * scale)), max(1, round(image.shape[1] * scale)))
            small = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.BILINEAR)
            image = image.new_tensor(np.asarray(small)).permute(2, 0, 1)
        names = [
            dataset.category_names[label - 1] + (" (crowd)" if crowd else "")
            for label, crowd in zip(target["labels"].tolist(), target["iscrowd"].tolist(), strict=True)
        ]
        colors = [class_color(label) for label in target["labels"].tolist()]
        picture = draw_boxes(image, target["boxes"] * min(1.0, scale), colors, names)
        picture.thumbnail((_TILE, _TILE))
    tile = Image.new("RGB", (_TILE, picture.height + _BAR), _BACKGROUND)
    tile.paste(picture, ((_TILE - picture.width) // 2, 0))
    caption = "".join(c if c.isprintable() else "?" for c in caption.encode("utf-8", "replace").decode())
    font = ImageFont.load_default(14)
    while len(caption) > 8 and font.getlength(caption) > _TILE - 8:
        caption = f"{caption[: len(caption) // 2 - 2]}...{caption[len(caption) // 2 + 2 :]}"
    ImageDraw.Draw(tile).text((4, picture.height + 3), caption, fill=(255, 255, 255), font=font)
    return tile
