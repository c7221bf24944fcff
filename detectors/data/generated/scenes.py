"""Draws the scenes of the generated data set: one seeded random generator in, one image and its boxes out.

The scenes stage the divergence of the paper's Fig. 1 on purpose. Every object is the same kind of animal - an
elongated body with a tail, limbs and a head - and its class shows *only* in the colored badge on the head.
The box belongs to the whole animal, so the place that shows the class (the head, near one end) is far from
the place that shows the box (the middle). Everything else - colors, proportions, pose, coat, light, clutter
- is drawn independently of the class. An animal without a badge is clutter, so the body alone is no evidence
of an object.

All drawing happens at `SUPERSAMPLE` times the image's size and is averaged down, which antialiases every edge
and puts the boxes on exact quarters of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from .animals import Sprite, class_badge, draw_animal, draw_clutter, muted_color

SUPERSAMPLE = 4
MIN_VISIBLE = 0.6  # of an animal's area, or it is not placed; nothing placed later may hide more
MIN_BADGE_VISIBLE = 0.8  # the class must be there to see
MIN_LENGTH = 24.0  # pixels, tail to head
MAX_LENGTH_FRACTION = 0.9  # of the image's side


@dataclass
class SceneObject:
    """One annotation: boxes are xyxy pixels, clipped to the image; `class_index` counts from 0."""

    class_index: int
    box: tuple[float, float, float, float]
    badge_box: tuple[float, float, float, float] | None
    visible: float  # visible share of the animal's whole area, the part outside the image included
    iscrowd: bool = False


@dataclass
class Scene:
    image: np.ndarray  # [S, S, 3] uint8 RGB
    objects: list[SceneObject] = field(default_factory=list)


_Placed = tuple[int, np.ndarray, np.ndarray]  # class, bounds and badge bounds (drawing pixels)


class Canvas:
    """The picture of a scene while it is drawn.

    Attributes:
        owner: int32 [height, width], the animal that each pixel shows, -1: none.
        badge: the same of the animals' badges.
        whole: int64 [n, 2] pixels of each animal and of its badge, hidden ones and those outside the image included.
    """

    def __init__(self, background: Image.Image):
        self.image = background
        self.owner = np.full((background.height, background.width), -1, dtype=np.int32)
        self.badge = self.owner.copy()
        self.whole = np.zeros((0, 2), dtype=np.int64)
        self._seen = np.zeros((0, 2), dtype=np.int64)  # those of `whole` that are visible

    def _window(self, mask: np.ndarray, corner: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray] | None:
        """The part of the canvas under `mask` placed at `corner` (x, y), and the part of `mask` over the
        canvas."""
        height, width = self.owner.shape
        x1, y1 = max(0, corner[0]), max(0, corner[1])
        x2, y2 = min(width, corner[0] + mask.shape[1]), min(height, corner[1] + mask.shape[0])
        if x1 >= x2 or y1 >= y2:
            return None
        inside = mask[y1 - corner[1] : y2 - corner[1], x1 - corner[0] : x2 - corner[0]]
        return (slice(y1, y2), slice(x1, x2)), inside

    def _seen_below(self, window: tuple[slice, slice], mask: np.ndarray) -> np.ndarray:
        """What still shows of every animal once `mask` is laid over `window`: [n, 2]."""
        hidden = [
            np.bincount(owner[window][mask] + 1, minlength=len(self._seen) + 1)[1:]
            for owner in (self.owner, self.badge)
        ]
        return self._seen - np.stack(hidden, axis=1)

    @staticmethod
    def _enough(seen: np.ndarray, whole: np.ndarray) -> bool:
        return bool((seen >= whole * (MIN_VISIBLE, MIN_BADGE_VISIBLE)).all())

    def place(self, sprite: Sprite, corner: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
        """Puts an animal on top; returns the bounds (xyxy, drawing pixels) of what the picture holds of it
        and of its badge, or None (nothing changed) if too little of it or of another animal would show."""
        mask, badge = np.asarray(sprite.mask) > 0, np.asarray(sprite.badge) > 0
        if (found := self._window(mask, corner)) is None:
            return None
        window, inside = found
        badge_inside = self._window(badge, corner)[1]
        seen = np.vstack([self._seen_below(window, inside), [np.count_nonzero(inside), np.count_nonzero(badge_inside)]])
        whole = np.vstack([self.whole, [np.count_nonzero(mask), np.count_nonzero(badge)]])
        if not self._enough(seen, whole):
            return None
        self.owner[window][inside] = len(self.whole)
        self.badge[window][inside] = -1
        self.badge[window][badge_inside] = len(self.whole)
        self._seen, self.whole = seen, whole
        self.image.paste(sprite.color, corner, sprite.mask)
        shift = np.array([window[1].start, window[0].start] * 2)
        return _bounds(inside) + shift, _bounds(badge_inside) + shift

    def cover(self, color: Image.Image, mask: Image.Image, corner: tuple[int, int]) -> bool:
        """Puts something that is not an object on top, unless it would hide an object too far."""
        if (found := self._window(np.asarray(mask) > 0, corner)) is None:
            return False
        window, inside = found
        seen = self._seen_below(window, inside)
        if not self._enough(seen, self.whole):
            return False
        self.owner[window][inside] = -1
        self.badge[window][inside] = -1
        self._seen = seen
        self.image.paste(color, corner, mask)
        return True

    def visible(self) -> np.ndarray:
        """Visible share of every animal's whole area, in the order of placing."""
        return self._seen[:, 0] / self.whole[:, 0]


def _bounds(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def _background(rng: np.random.Generator, size: int) -> Image.Image:
    """Noise of several scales in two random muted colors, [size, size] RGB."""

    def noise(cells: int) -> np.ndarray:
        grain = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32) * cells**-0.45)
        return np.asarray(grain.resize((size, size), Image.Resampling.BICUBIC))

    texture = sum(noise(cells) for cells in (3, 6, 12, 24, 48))
    tint = 0.25 * np.stack([noise(3) + noise(9) for _ in range(3)], axis=-1)
    low, high = (np.array(muted_color(rng), dtype=np.float32) for _ in range(2))
    blend = 1 / (1 + np.exp(-rng.uniform(1.0, 3.5) * texture))[..., None]
    picture = low + 0.7 * (high - low) * blend + 20 * tint
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _pixels(bounds: np.ndarray) -> tuple[float, float, float, float]:
    return tuple(float(v) / SUPERSAMPLE for v in bounds)  # type: ignore[return-value]


def try_animal(
    rng: np.random.Generator,
    canvas: Canvas,
    length: float,
    class_index: int,
    centers: tuple[tuple[float, float], tuple[float, float]],
) -> list[_Placed]:
    """Draws one animal and looks for a place for it, ten times: a list of that one, or an empty one. The
    length and the range of centers (x, then y) are in drawing pixels."""
    sprite = draw_animal(rng, length, class_badge(class_index))
    for _ in range(10):
        x, y = (rng.uniform(low, high) for low, high in centers)
        corner = (int(x - sprite.mask.width / 2), int(y - sprite.mask.height / 2))
        if (placed := canvas.place(sprite, corner)) is not None:
            return [(class_index, *placed)]
    return []


def draw_scene(rng: np.random.Generator, size: int, num_classes: int) -> Scene:
    """Draws one `size` x `size` scene with 0 to 4 objects (about one image in sixteen has none, in one of
    twenty a crowd stands for one object)."""
    full = size * SUPERSAMPLE
    canvas = Canvas(_background(rng, size).resize((full, full), Image.Resampling.BILINEAR))
    shortest, longest = MIN_LENGTH * SUPERSAMPLE, max(MIN_LENGTH, MAX_LENGTH_FRACTION * size) * SUPERSAMPLE

    def length() -> float:
        return shortest + (longest - shortest) * rng.uniform() ** 1.1

    def anywhere(extent: float) -> tuple[int, int]:
        x, y = rng.uniform(0, full, 2) - extent / 2
        return int(x), int(y)

    def add_clutter(smallest: float) -> None:
        color, mask = draw_clutter(rng, rng.uniform(smallest, 0.4) * full)
        canvas.cover(color, mask, anywhere(mask.width))

    for _ in range(rng.integers(2, 7)):
        add_clutter(0.06)
    if rng.uniform() < 0.25:
        plain = draw_animal(rng, length(), None)
        canvas.cover(plain.color, plain.mask, anywhere(plain.mask.width))

    count = 0 if rng.uniform() < 0.06 else int(rng.integers(1, 5))
    found: list[_Placed] = []
    crowd_size = 0
    if count and rng.uniform() < 0.05:
        count -= 1
        class_index = int(rng.integers(num_classes))
        x, y, spread = *rng.uniform(0.3, 0.7, 2) * full, 0.16 * full
        around = ((x - spread, x + spread), (y - spread, y + spread))
        for _ in range(rng.integers(5, 9)):
            found += try_animal(rng, canvas, rng.uniform(0.7, 1.0) * shortest, class_index, around)
        # One animal alone is an object, not a crowd.
        crowd_size = len(found) if len(found) > 1 else 0
    for _ in range(count):
        class_index = int(rng.integers(num_classes))
        found += try_animal(rng, canvas, length(), class_index, ((0.04 * full, 0.96 * full),) * 2)
    for _ in range(rng.integers(0, 3)):
        add_clutter(0.08)

    visible = canvas.visible()
    objects = [
        SceneObject(class_index, _pixels(bounds), _pixels(badge), float(share))
        for (class_index, bounds, badge), share in zip(found[crowd_size:], visible[crowd_size:], strict=True)
    ]
    if crowd_size:
        bounds = np.stack([entry[1] for entry in found[:crowd_size]])
        union = np.concatenate([bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)])
        seen = float(visible[:crowd_size].mean())
        objects.append(SceneObject(found[0][0], _pixels(union), None, seen, iscrowd=True))

    picture = np.asarray(canvas.image.reduce(SUPERSAMPLE), dtype=np.float32)
    cast = (rng.uniform(0.8, 1.12) * rng.uniform(0.95, 1.05, 3)).astype(np.float32)
    grain = rng.normal(0, rng.uniform(1, 4), picture.shape).astype(np.float32)
    picture = picture * cast + grain
    return Scene(np.clip(np.rint(picture), 0, 255).astype(np.uint8), objects)
