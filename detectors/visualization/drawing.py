"""Pictures of detections and of labels, by Pillow: readable on thumbnails and on photographs of many megapixels."""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..printable import printable

Color = tuple[int, int, int]

POSITIVE, NEGATIVE = (255, 140, 0), (30, 90, 255)
"""Orange and blue: the paper's Fig. 2."""

READABLE = 640
"""Pixels of the long side below which a picture is enlarged, so that text fits beside the objects."""

_LONGEST_NAME = 40


def class_color(label: int) -> Color:
    """The color of class `label` (from 1), always the same; neighbors are far apart in hue."""
    hue = (label * 0.618034) % 1.0  # the golden ratio never comes back to a hue
    r, g, b = colorsys.hsv_to_rgb(hue, (0.95, 0.65)[label // 7 % 2], (1.0, 0.8)[label // 3 % 2])
    return int(255 * r), int(255 * g), int(255 * b)


def draw_boxes(
    image: Tensor,
    boxes: Tensor,
    colors: Sequence[Color],
    texts: Sequence[str] | None = None,
    *,
    weight: float = 2,
    width: int | None = None,
) -> Image.Image:
    """`image` with boxes and a tag at each; small images are enlarged by a whole factor.

    Args:
        image: uint8 [3, H, W] RGB.
        boxes: [n, 4] xyxy pixels, the most important first: it is drawn on top. Boxes that are not finite are left out.
        colors, texts: of each box; an empty text has no tag.
        weight: pixels of a line in a picture of READABLE pixels.
        width: pixels of a line in any picture, instead of ``weight``.

    Raises ValueError for a ``width`` below 1.
    """
    if width is not None and width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    picture, zoom = _enlarged(image)
    draw = ImageDraw.Draw(picture)
    unit = max(picture.size) / READABLE
    width = max(2, round(weight * unit)) if width is None else width
    font = _font(max(13, round(13 * unit)))
    rows = np.asarray(boxes.detach().cpu().float()).reshape(-1, 4)
    for k in reversed(range(len(rows))):
        if not np.isfinite(rows[k]).all():
            continue
        limit = (picture.width - 1, picture.height - 1) * 2
        x1, y1, x2, y2 = (min(max(float(v) * zoom, 0.0), float(m)) for v, m in zip(rows[k], limit, strict=True))
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colors[k], width=width)
        if texts is not None and texts[k]:
            _tag(draw, (x1, y1), texts[k], colors[k], font, picture.size)
    return picture


def draw_detections(
    image: Tensor, detections: dict[str, Tensor], names: Sequence[str] | None = None, *, width: int | None = None
) -> Image.Image:
    """:func:`draw_boxes` of a detector's output; class names by label (`names[l - 1]`), or the scores alone."""
    labels, scores = detections["labels"].tolist(), detections["scores"].tolist()
    shown = [f"{score:.2f}" for score in scores]
    if names is not None:
        shown = [f"{names[label - 1]} {score}" for label, score in zip(labels, shown, strict=True)]
    return draw_boxes(image, detections["boxes"], [class_color(label) for label in labels], shown, width=width)


def draw_priors(image: Tensor, centers: Tensor, positive: Tensor, boxes: Tensor | None = None) -> Image.Image:
    """`image` (uint8 [3, H, W]) darkened, with a dot at every prior's center: orange positives over blue negatives.

    Args:
        centers: [n, 2] (x, y) pixels; of priors at one place, one positive decides.
        positive: [n] bool.
        boxes: [G, 4] objects, drawn in white.
    """
    picture, zoom = _enlarged(image)
    picture = Image.eval(picture, lambda value: value * 2 // 3)
    draw = ImageDraw.Draw(picture)
    unit = max(picture.size) / READABLE
    if boxes is not None:
        for x1, y1, x2, y2 in (boxes.detach().cpu().float() * zoom).tolist():
            draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=(255, 255, 255), width=max(1, round(unit)))
    radius = max(1.5, 2.5 * unit)
    points, chosen = (centers.detach().cpu().float() * zoom), positive.detach().cpu()
    for mask, color in ((~chosen, NEGATIVE), (chosen, POSITIVE)):
        for x, y in points[mask].unique(dim=0).tolist():
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    return picture


def side_by_side(pictures: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Pictures of one size in a row, each with its title above."""
    width, height = pictures[0].size
    bar = max(18, round(26 * max(width, height) / READABLE))
    row = Image.new("RGB", (len(pictures) * (width + 4) - 4, height + bar), (32, 32, 32))
    draw, font = ImageDraw.Draw(row), _font(bar * 2 // 3)
    for k, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        draw.text((k * (width + 4) + 4, bar // 8), title, fill=(255, 255, 255), font=font)
        row.paste(picture, (k * (width + 4), bar))
    return row


def _enlarged(image: Tensor) -> tuple[Image.Image, int]:
    picture = Image.fromarray(np.ascontiguousarray(image.detach().cpu().permute(1, 2, 0).numpy()), "RGB")
    zoom = min(8, -(-READABLE // max(picture.size)))
    if zoom > 1:
        picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.BICUBIC)
    return picture, zoom


@functools.lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _tag(draw, corner: tuple[float, float], text: str, color: Color, font, size: tuple[int, int]) -> None:
    """The text on its class's color: above the box if there is room, else inside, and never outside the picture."""
    text = printable(text)
    text = text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 6] + "\u2026" + text[-5:]  # the score stays
    try:
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    except UnicodeEncodeError:  # Pillow without FreeType has a Latin font only
        text = text.encode("ascii", "replace").decode()
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height, pad = right - left, bottom - top, max(1, (bottom - top) // 5)
    x = max(0.0, min(corner[0], size[0] - width - 2 * pad))
    y = corner[1] - height - 2 * pad
    y = max(0.0, min(corner[1] if y < 0 else y, size[1] - height - 2 * pad))
    draw.rectangle((x, y, x + width + 2 * pad, y + height + 2 * pad), fill=color)
    dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] < 140
    draw.text((x + pad - left, y + pad - top), text, fill=(255, 255, 255) if dark else (0, 0, 0), font=font)
