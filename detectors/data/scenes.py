"""Draws the scenes of the generated data set: one seeded random generator in, one image and its boxes out.

The scenes stage the divergence of the paper's Fig. 1 on purpose. Every object is the same kind of animal - an
elongated body with a tail, limbs and a head - and its class shows *only* in the coloured badge on the head.
The box belongs to the whole animal, so the place that tells the class (the head, near one end) is far from
the place that tells the box (the middle). Everything else - colours, proportions, pose, coat, light, clutter
- is drawn independently of the class. An animal without a badge is clutter, so the body alone is no evidence
of an object.

All drawing happens at `SUPERSAMPLE` times the image's size and is averaged down, which antialiases every edge
and puts the boxes on exact quarters of a pixel.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLE = 4
MIN_VISIBLE = (
    0.5  # of the animal's area; below it an object is not placed, nor hidden so far by what comes later
)
MIN_BADGE_VISIBLE = 0.8  # the class must be there to see
MIN_LENGTH = 20.0  # pixels, tail to head
MAX_LENGTH_FRACTION = 0.9  # of the image's side

BADGE_COLOURS = {
    "red": (222, 32, 38),
    "blue": (36, 84, 232),
    "yellow": (250, 216, 28),
    "green": (22, 186, 66),
    "magenta": (226, 40, 206),
    "cyan": (24, 206, 226),
    "orange": (250, 128, 14),
    "violet": (120, 40, 200),
}
BADGE_PATTERNS = ("spot", "cross", "bars", "ring", "wedge")
MAX_CLASSES = len(BADGE_COLOURS) * len(BADGE_PATTERNS)


def class_badge(class_index: int) -> tuple[str, str]:
    """Colour and pattern names of class `class_index` (from 0). The first eight classes differ in colour and
    neighbours differ in pattern too; all `MAX_CLASSES` pairs are distinct."""
    if not 0 <= class_index < MAX_CLASSES:
        raise ValueError(f"class_index must be in 0..{MAX_CLASSES - 1}, got {class_index}")
    colours = list(BADGE_COLOURS)
    pattern = (class_index + class_index // len(colours)) % len(BADGE_PATTERNS)
    return colours[class_index % len(colours)], BADGE_PATTERNS[pattern]


@dataclass
class SceneObject:
    """One annotation. `box` and `badge_box` are xyxy pixels, clipped to the image; `class_index` counts from
    0."""

    class_index: int
    box: tuple[float, float, float, float]
    badge_box: tuple[float, float, float, float] | None
    visible: float  # visible share of the animal's whole area, the part outside the image included
    iscrowd: bool = False


@dataclass
class Scene:
    image: np.ndarray  # [S, S, 3] uint8 RGB
    objects: list[SceneObject] = field(default_factory=list)


@dataclass
class _Sprite:
    """An animal on its own small canvas: colours, its mask and its badge's mask, all [h, w] at the drawing
    resolution."""

    colour: Image.Image
    mask: Image.Image
    badge: Image.Image


class _Canvas:
    """The growing picture and, for every pixel, which animal owns it and which animal's badge shows there
    (-1: none)."""

    def __init__(self, background: Image.Image):
        self.image = background
        self._owner = np.full((background.height, background.width), -1, dtype=np.int32)
        self._badge = self._owner.copy()
        self._whole = np.zeros(
            (0, 2), dtype=np.int64
        )  # pixels of each animal and of its badge, hidden ones included
        self._seen = np.zeros((0, 2), dtype=np.int64)  # how many of them show

    def _window(
        self, mask: np.ndarray, corner: tuple[int, int]
    ) -> tuple[tuple[slice, slice], np.ndarray] | None:
        """The part of the canvas under `mask` placed at `corner` (x, y), and the part of `mask` over the
        canvas."""
        height, width = self._owner.shape
        x1, y1 = max(0, corner[0]), max(0, corner[1])
        x2, y2 = min(width, corner[0] + mask.shape[1]), min(height, corner[1] + mask.shape[0])
        if x1 >= x2 or y1 >= y2:
            return None
        return (slice(y1, y2), slice(x1, x2)), mask[
            y1 - corner[1] : y2 - corner[1], x1 - corner[0] : x2 - corner[0]
        ]

    def _seen_below(self, window: tuple[slice, slice], mask: np.ndarray) -> np.ndarray:
        """What still shows of every animal once `mask` is laid over `window`: [n, 2]."""
        hidden = [
            np.bincount(owner[window][mask] + 1, minlength=len(self._seen) + 1)[1:]
            for owner in (self._owner, self._badge)
        ]
        return self._seen - np.stack(hidden, axis=1)

    @staticmethod
    def _enough(seen: np.ndarray, whole: np.ndarray) -> bool:
        return bool((seen >= whole * (MIN_VISIBLE, MIN_BADGE_VISIBLE)).all())

    def place(self, sprite: _Sprite, corner: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
        """Puts an animal on top; returns the bounds (xyxy, drawing pixels) of what the picture holds of it
        and of its badge, or None (nothing changed) if too little of it or of another animal would show."""
        mask, badge = np.asarray(sprite.mask) > 0, np.asarray(sprite.badge) > 0
        if (found := self._window(mask, corner)) is None:
            return None
        window, inside = found
        badge_inside = self._window(badge, corner)[1]
        seen = np.vstack(
            [self._seen_below(window, inside), [np.count_nonzero(inside), np.count_nonzero(badge_inside)]]
        )
        whole = np.vstack([self._whole, [np.count_nonzero(mask), np.count_nonzero(badge)]])
        if not self._enough(seen, whole):
            return None
        self._owner[window][inside] = len(self._whole)
        self._badge[window][inside] = -1
        self._badge[window][badge_inside] = len(self._whole)
        self._seen, self._whole = seen, whole
        self.image.paste(sprite.colour, corner, sprite.mask)
        shift = np.array([window[1].start, window[0].start] * 2)
        return _bounds(inside) + shift, _bounds(badge_inside) + shift

    def cover(self, colour: Image.Image, mask: Image.Image, corner: tuple[int, int]) -> bool:
        """Puts something that is not an object on top, unless it would hide an object too far."""
        if (found := self._window(np.asarray(mask) > 0, corner)) is None:
            return False
        window, inside = found
        seen = self._seen_below(window, inside)
        if not self._enough(seen, self._whole):
            return False
        self._owner[window][inside] = -1
        self._badge[window][inside] = -1
        self._seen = seen
        self.image.paste(colour, corner, mask)
        return True

    def visible(self) -> np.ndarray:
        """Visible share of every animal's whole area, in the order of placing."""
        return self._seen[:, 0] / self._whole[:, 0]


def _bounds(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def _muted_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """A natural colour: any hue, little saturation, so that no body looks like a badge."""
    r, g, b = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.05, 0.42), rng.uniform(0.2, 0.95))
    return int(255 * r), int(255 * g), int(255 * b)


def _shade(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    return tuple(int(min(255, max(0, c * factor))) for c in colour)  # type: ignore[return-value]


def _background(rng: np.random.Generator, size: int) -> Image.Image:
    """Noise of several scales in two random muted colours, [size, size] RGB."""

    def noise(cells: int) -> np.ndarray:
        grain = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32) * cells**-0.45)
        return np.asarray(grain.resize((size, size), Image.Resampling.BICUBIC))

    texture = sum(noise(cells) for cells in (3, 6, 12, 24, 48))
    tint = 0.25 * np.stack([noise(3) + noise(9) for _ in range(3)], axis=-1)
    low, high = (np.array(_muted_colour(rng), dtype=np.float32) for _ in range(2))
    blend = 1 / (1 + np.exp(-rng.uniform(1.0, 3.5) * texture))[..., None]
    picture = low + (high - low) * blend + 30 * tint
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _ellipse(cx: float, cy: float, rx: float, ry: float, points: int = 40) -> np.ndarray:
    angles = np.linspace(0, 2 * math.pi, points, endpoint=False)
    return np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], axis=1)


def _ribbon(path: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Outline of a stroke along `path` [n, 2] with half-widths `widths` [n]."""
    tangent = np.gradient(path, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    offset = normal * widths[:, None]
    return np.concatenate([path + offset, (path - offset)[::-1]])


def _draw_badge(
    draw: ImageDraw.ImageDraw,
    to_canvas,
    centre: tuple[float, float],
    radius: float,
    pattern: str,
    colour: tuple[int, int, int],
    ink: tuple[int, int, int],
) -> None:
    cx, cy = centre

    def fill(outline: np.ndarray, paint: tuple[int, int, int]) -> None:
        draw.polygon(to_canvas(outline), fill=paint)

    fill(_ellipse(cx, cy, radius, radius), colour)
    r = radius
    if pattern == "spot":
        fill(_ellipse(cx, cy, 0.45 * r, 0.45 * r), ink)
    elif pattern == "ring":
        fill(_ellipse(cx, cy, 0.8 * r, 0.8 * r), ink)
        fill(_ellipse(cx, cy, 0.5 * r, 0.5 * r), colour)
    elif pattern == "wedge":
        fill(np.array([[cx + 0.8 * r, cy], [cx - 0.5 * r, cy + 0.7 * r], [cx - 0.5 * r, cy - 0.7 * r]]), ink)
    else:  # a cross is two bars at right angles, bars are two side by side
        bars = (
            [(0.0, 0.0, 0.8, 0.2), (0.0, 0.0, 0.2, 0.8)]
            if pattern == "cross"
            else [(-0.35, 0.0, 0.16, 0.72), (0.35, 0.0, 0.16, 0.72)]
        )
        for dx, dy, hx, hy in bars:
            x, y = cx + dx * r, cy + dy * r
            fill(
                np.array(
                    [
                        [x - hx * r, y - hy * r],
                        [x + hx * r, y - hy * r],
                        [x + hx * r, y + hy * r],
                        [x - hx * r, y + hy * r],
                    ]
                ),
                ink,
            )


def draw_animal(rng: np.random.Generator, length: float, badge: tuple[str, str] | None) -> _Sprite:
    """An animal `length` drawing pixels long from tail to head, at a random pose. `badge` (colour and pattern
    names) is all that the class decides; None leaves the head plain. The same generator state gives the same
    animal for every badge."""
    angle, side = rng.uniform(0, 2 * math.pi), rng.choice([-1.0, 1.0])
    body_colour = _muted_colour(rng)
    coat = _shade(body_colour, rng.choice([0.6, 0.75, 1.3]))
    limb_colour = _shade(body_colour, rng.uniform(0.55, 0.85))
    head_r, body_rx, body_ry = rng.uniform(0.12, 0.15), rng.uniform(0.17, 0.22), rng.uniform(0.11, 0.17)
    bend, tail_end = rng.uniform(0.0, 0.22), rng.uniform(0.0, 0.25)
    head = (0.5 - head_r, side * bend)
    body_x = head[0] - head_r - body_rx + 0.07

    # Unit coordinates: the head looks to +x, the tail's tip is at x = -0.5; half a canvas is `reach` units.
    reach = 0.75
    side_px = int(math.ceil(2 * reach * length)) + 2
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])

    def to_canvas(outline: np.ndarray) -> list[tuple[float, float]]:
        return [tuple(p) for p in outline @ turn * length + side_px / 2]

    parts: list[tuple[np.ndarray, tuple[int, int, int]]] = []
    along = np.linspace(0, 1, 16)
    rear = body_x - 0.7 * body_rx
    tail = np.stack([rear + (-0.5 - rear) * along, -side * tail_end * along**2], axis=1)
    parts.append((_ribbon(tail, 0.055 - 0.035 * along), limb_colour))
    if rng.uniform() < 0.6:  # a fan at the tip
        parts.append((_ellipse(-0.45, tail[-1, 1], 0.055, rng.uniform(0.05, 0.11)), coat))
    for hip in body_x + np.linspace(-0.6, 0.6, rng.integers(1, 3)) * body_rx:
        spread = rng.uniform(0.16, 0.36)
        for way in (-1.0, 1.0):
            sweep = rng.uniform(-0.16, 0.08)
            limb = np.stack([hip + sweep * along, way * spread * along], axis=1)
            parts.append((_ribbon(limb, 0.04 - 0.014 * along), limb_colour))
    neck = np.array([[body_x, 0.0], head])
    parts.append((_ribbon(neck, np.array([0.075, 0.075])), body_colour))
    parts.append((_ellipse(body_x, 0.0, body_rx, body_ry), body_colour))
    for spot_x in rng.uniform(-0.6, 0.6, rng.integers(0, 5)) * body_rx:
        parts.append(
            (_ellipse(body_x + spot_x, rng.uniform(-0.5, 0.5) * body_ry, 0.03, 0.45 * body_ry, 16), coat)
        )
    parts.append((_ellipse(*head, head_r, head_r), _shade(body_colour, 0.45)))
    badge_r, light, ink_is_dark = 0.88 * head_r, rng.uniform(0.85, 1.1), rng.uniform() < 0.5

    sprite = _Sprite(*(Image.new(mode, (side_px, side_px)) for mode in ("RGB", "L", "L")))
    painter, masker = ImageDraw.Draw(sprite.colour), ImageDraw.Draw(sprite.mask)
    for outline, paint in parts:
        corners = to_canvas(outline)
        painter.polygon(corners, fill=paint)
        masker.polygon(corners, fill=255)
    ImageDraw.Draw(sprite.badge).polygon(to_canvas(_ellipse(*head, badge_r, badge_r)), fill=255)
    if badge is not None:
        colour, pattern = badge
        ink = (18, 18, 22) if ink_is_dark else (245, 245, 240)
        _draw_badge(painter, to_canvas, head, badge_r, pattern, _shade(BADGE_COLOURS[colour], light), ink)
    return sprite


def _clutter(rng: np.random.Generator, size: float) -> tuple[Image.Image, Image.Image]:
    """A leaf, a stone or a stick, `size` drawing pixels long: colours and mask."""
    side_px, kind = int(size) + 2, rng.integers(3)
    mask = Image.new("L", (side_px, side_px))
    angle = rng.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    if kind == 0:
        outline = _ellipse(0, 0, 0.48, rng.uniform(0.12, 0.4))
    elif kind == 1:
        spokes = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(5, 9)))
        outline = np.stack([np.cos(spokes), np.sin(spokes)], axis=1) * rng.uniform(
            0.25, 0.48, (len(spokes), 1)
        )
    else:
        along = np.linspace(-0.48, 0.48, 12)
        outline = _ribbon(
            np.stack([along, rng.uniform(-0.6, 0.6) * along**2], axis=1), np.full(12, rng.uniform(0.02, 0.06))
        )
    ImageDraw.Draw(mask).polygon([tuple(p) for p in outline @ turn * size + side_px / 2], fill=255)
    return Image.new("RGB", mask.size, _muted_colour(rng)), mask


def _pixels(bounds: np.ndarray) -> tuple[float, float, float, float]:
    return tuple(float(v) / SUPERSAMPLE for v in bounds)  # type: ignore[return-value]


def _try_animal(
    rng: np.random.Generator,
    canvas: _Canvas,
    length: float,
    badge: tuple[str, str],
    centre_range: tuple[tuple[float, float], tuple[float, float]],
):
    """Draws one animal and looks for a place for it, ten times; lengths and centres in drawing pixels."""
    sprite = draw_animal(rng, length, badge)
    (x_low, x_high), (y_low, y_high) = centre_range
    for _ in range(10):
        corner = (
            int(rng.uniform(x_low, x_high) - sprite.mask.width / 2),
            int(rng.uniform(y_low, y_high) - sprite.mask.height / 2),
        )
        if (placed := canvas.place(sprite, corner)) is not None:
            return placed
    return None


def draw_scene(rng: np.random.Generator, size: int, num_classes: int) -> Scene:
    """Draws one `size` x `size` scene with 0 to 4 objects (about one image in sixteen has none, in one of
    twenty a crowd stands for one object)."""
    full = size * SUPERSAMPLE
    canvas = _Canvas(_background(rng, size).resize((full, full), Image.Resampling.BILINEAR))
    shortest, longest = MIN_LENGTH * SUPERSAMPLE, max(MIN_LENGTH, MAX_LENGTH_FRACTION * size) * SUPERSAMPLE

    def length() -> float:
        return shortest + (longest - shortest) * rng.uniform() ** 1.25

    def anywhere(extent: float) -> tuple[int, int]:
        x, y = rng.uniform(0, full, 2) - extent / 2
        return int(x), int(y)

    for _ in range(rng.integers(3, 9)):
        canvas.cover(*(things := _clutter(rng, rng.uniform(0.06, 0.4) * full)), anywhere(things[1].width))
    if rng.uniform() < 0.25:
        plain = draw_animal(rng, length(), None)
        canvas.cover(plain.colour, plain.mask, anywhere(plain.mask.width))

    count = 0 if rng.uniform() < 0.06 else int(rng.integers(1, 5))
    found: list[
        tuple[int, np.ndarray, np.ndarray]
    ] = []  # class, bounds and badge bounds of each placed animal
    crowd_size = 0
    if count and rng.uniform() < 0.05:
        count -= 1
        class_index = int(rng.integers(num_classes))
        x, y, spread = *rng.uniform(0.3, 0.7, 2) * full, 0.16 * full
        for _ in range(rng.integers(5, 9)):
            span = ((x - spread, x + spread), (y - spread, y + spread))
            member_length = rng.uniform(0.7, 1.0) * shortest
            if (
                placed := _try_animal(rng, canvas, member_length, class_badge(class_index), span)
            ) is not None:
                crowd_size += 1
                found.append((class_index, *placed))
    if crowd_size == 1:  # one animal alone is an object, not a crowd
        crowd_size = 0
    for _ in range(count):
        class_index = int(rng.integers(num_classes))
        span = ((0.04 * full, 0.96 * full),) * 2
        if (placed := _try_animal(rng, canvas, length(), class_badge(class_index), span)) is not None:
            found.append((class_index, *placed))
    for _ in range(rng.integers(0, 3)):
        things = _clutter(rng, rng.uniform(0.08, 0.4) * full)
        canvas.cover(*things, anywhere(things[1].width))

    visible = canvas.visible()
    objects = [
        SceneObject(class_index, _pixels(bounds), _pixels(badge), float(visible[i]))
        for i, (class_index, bounds, badge) in enumerate(found)
        if i >= crowd_size
    ]
    if crowd_size > 1:
        bounds = np.stack([entry[1] for entry in found[:crowd_size]])
        union = np.concatenate([bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)])
        objects.append(
            SceneObject(found[0][0], _pixels(union), None, float(visible[:crowd_size].mean()), iscrowd=True)
        )

    picture = np.asarray(canvas.image.reduce(SUPERSAMPLE), dtype=np.float32)
    cast = rng.uniform(0.8, 1.12) * rng.uniform(0.95, 1.05, 3).astype(np.float32)
    picture = picture * cast.astype(np.float32) + rng.normal(0, rng.uniform(1, 4), picture.shape).astype(
        np.float32
    )
    return Scene(np.clip(np.rint(picture), 0, 255).astype(np.uint8), objects)
