"""Draws the actors of the generated scenes: clutter, and animals whose class is only in a badge on the head.

Lengths are in drawing pixels (the scene draws larger than it shows, see `scenes`).
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

BADGE_COLORS = {
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
MAX_CLASSES = len(BADGE_COLORS) * len(BADGE_PATTERNS)


def class_badge(class_index: int) -> tuple[str, str]:
    """Color and pattern names of class `class_index` (from 0). The first eight classes differ in color and
    neighbors differ in pattern too; all `MAX_CLASSES` pairs are distinct."""
    if not 0 <= class_index < MAX_CLASSES:
        raise ValueError(f"class_index must be in 0..{MAX_CLASSES - 1}, got {class_index}")
    colors = list(BADGE_COLORS)
    pattern = (class_index + class_index // len(colors)) % len(BADGE_PATTERNS)
    return colors[class_index % len(colors)], BADGE_PATTERNS[pattern]


@dataclass
class Sprite:
    """An animal on its own small canvas: colors, its mask and its badge's mask, all [h, w] at the drawing
    resolution."""

    color: Image.Image
    mask: Image.Image
    badge: Image.Image


def muted_color(rng: np.random.Generator) -> tuple[int, int, int]:
    """A natural color: any hue, little saturation, so that no body looks like a badge."""
    r, g, b = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.28), rng.uniform(0.2, 0.9))
    return int(255 * r), int(255 * g), int(255 * b)


def _shade(color: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    return tuple(int(min(255, max(0, c * factor))) for c in color)  # type: ignore[return-value]


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
    to_canvas: Callable[[np.ndarray], list[tuple[float, float]]],
    center: tuple[float, float],
    radius: float,
    pattern: str,
    color: tuple[int, int, int],
    ink: tuple[int, int, int],
) -> None:
    cx, cy = center

    def fill(outline: np.ndarray, paint: tuple[int, int, int]) -> None:
        draw.polygon(to_canvas(outline), fill=paint)

    fill(_ellipse(cx, cy, radius, radius), color)
    r = radius
    if pattern == "spot":
        fill(_ellipse(cx, cy, 0.38 * r, 0.38 * r), ink)
    elif pattern == "ring":
        fill(_ellipse(cx, cy, 0.72 * r, 0.72 * r), ink)
        fill(_ellipse(cx, cy, 0.48 * r, 0.48 * r), color)
    elif pattern == "wedge":
        fill(np.array([[cx + 0.6 * r, cy], [cx - 0.4 * r, cy + 0.5 * r], [cx - 0.4 * r, cy - 0.5 * r]]), ink)
    else:  # a cross is two bars at right angles, bars are two side by side
        cross, pair = [(0, 0, 0.7, 0.15), (0, 0, 0.15, 0.7)], [(-0.35, 0, 0.13, 0.7), (0.35, 0, 0.13, 0.7)]
        bars = cross if pattern == "cross" else pair
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        for dx, dy, hx, hy in bars:  # center and half sides, in radii
            fill(np.array(center) + r * (np.array([dx, dy]) + corners * (hx, hy)), ink)


def draw_animal(rng: np.random.Generator, length: float, badge: tuple[str, str] | None) -> Sprite:
    """An animal `length` drawing pixels long from tail to head, at a random pose. `badge` (color and pattern
    names) is all that the class decides; None leaves the head plain. The same generator state gives the same
    animal for every badge."""
    angle, side = rng.uniform(0, 2 * math.pi), rng.choice([-1.0, 1.0])
    body_color = muted_color(rng)
    coat = _shade(body_color, rng.choice([0.6, 0.75, 1.3]))
    limb_color = _shade(body_color, rng.uniform(0.55, 0.85))
    head_r, body_rx, body_ry = rng.uniform(0.15, 0.18), rng.uniform(0.17, 0.21), rng.uniform(0.12, 0.17)
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
    parts.append((_ribbon(tail, 0.055 - 0.035 * along), limb_color))
    if rng.uniform() < 0.6:  # a fan at the tip
        parts.append((_ellipse(-0.45, tail[-1, 1], 0.055, rng.uniform(0.05, 0.11)), coat))
    for hip in body_x + np.linspace(-0.6, 0.6, rng.integers(1, 3)) * body_rx:
        spread = rng.uniform(0.18, 0.32)
        for way in (-1.0, 1.0):
            sweep = rng.uniform(-0.16, 0.08)
            limb = np.stack([hip + sweep * along, way * spread * along], axis=1)
            parts.append((_ribbon(limb, 0.04 - 0.014 * along), limb_color))
    neck = np.array([[body_x, 0.0], head])
    parts.append((_ribbon(neck, np.array([0.075, 0.075])), body_color))
    parts.append((_ellipse(body_x, 0.0, body_rx, body_ry), body_color))
    for spot_x in rng.uniform(-0.6, 0.6, rng.integers(0, 5)) * body_rx:
        parts.append((_ellipse(body_x + spot_x, rng.uniform(-0.5, 0.5) * body_ry, 0.03, 0.45 * body_ry, 16), coat))
    parts.append((_ellipse(*head, head_r, head_r), _shade(body_color, 0.45)))
    badge_r, light, ink_is_dark = 0.88 * head_r, rng.uniform(0.85, 1.1), rng.uniform() < 0.5

    sprite = Sprite(*(Image.new(mode, (side_px, side_px)) for mode in ("RGB", "L", "L")))
    painter, masker = ImageDraw.Draw(sprite.color), ImageDraw.Draw(sprite.mask)
    for outline, paint in parts:
        corners = to_canvas(outline)
        painter.polygon(corners, fill=paint)
        masker.polygon(corners, fill=255)
    ImageDraw.Draw(sprite.badge).polygon(to_canvas(_ellipse(*head, badge_r, badge_r)), fill=255)
    if badge is not None:
        color, pattern = badge
        ink = (18, 18, 22) if ink_is_dark else (245, 245, 240)
        _draw_badge(painter, to_canvas, head, badge_r, pattern, _shade(BADGE_COLORS[color], light), ink)
    return sprite


def draw_clutter(rng: np.random.Generator, size: float) -> tuple[Image.Image, Image.Image]:
    """A leaf, a stone or a stick, `size` drawing pixels long: colors and mask."""
    side_px, kind = int(size) + 2, rng.integers(3)
    mask = Image.new("L", (side_px, side_px))
    angle = rng.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    if kind == 0:
        outline = _ellipse(0, 0, 0.48, rng.uniform(0.12, 0.4))
    elif kind == 1:
        spokes = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(5, 9)))
        outline = np.stack([np.cos(spokes), np.sin(spokes)], axis=1) * rng.uniform(0.25, 0.48, (len(spokes), 1))
    else:
        along = np.linspace(-0.48, 0.48, 12)
        outline = _ribbon(
            np.stack([along, rng.uniform(-0.6, 0.6) * along**2], axis=1), np.full(12, rng.uniform(0.02, 0.06))
        )
    ImageDraw.Draw(mask).polygon([tuple(p) for p in outline @ turn * size + side_px / 2], fill=255)
    return Image.new("RGB", mask.size, muted_color(rng)), mask
