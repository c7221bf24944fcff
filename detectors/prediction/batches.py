"""Detections on images of different sizes, in batches of one padded size; an image that fails does so alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..data.errors import ImageDecodeError

_WINDOW = 4
"""Batches that are read before the images are grouped by size."""
_WINDOW_BYTES = 2**28
"""Fewer are read if their pixels take more memory."""


class Read(NamedTuple):
    """An image that was read."""

    image: Tensor
    """uint8 [3, H, W]."""
    resized: Tensor
    """As the detector takes it."""
    result: Callable[..., Any]
    """Makes the result, of its boxes, scores, labels, image_size and classes."""


Part = Read | Exception
"""An image, or why it could not be read."""


def in_windows(parts: Iterable[Part], batch_size: int) -> Iterator[list[Part]]:
    """The images in groups of a few batches, in order; the last group may be empty."""
    most = 1 if batch_size == 1 else _WINDOW * batch_size
    window: list[Part] = []
    for one in parts:
        window.append(one)
        held = sum(part.image.nbytes for part in window if isinstance(part, Read))
        if len(window) == most or held > _WINDOW_BYTES:
            yield window
            window = []
    yield window


Detect = Callable[[Sequence[Tensor]], Sequence[dict[str, Tensor]]]


def detect_in_batches(
    detect: Detect, images: Sequence[Tensor], batch_size: int, divisor: int
) -> list[dict[str, Tensor] | Exception]:
    """The detections of each image [3, H_i, W_i], or the error of one that does not fit in memory, in order.

    Args:
        detect: detections on a batch.
        batch_size: the largest batch.
        divisor: ``detect`` pads images to multiples of this. A batch has images of one padded size: more padding would
            change features and results.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        padded = (-(-side // divisor) for side in image.shape[-2:])
        groups.setdefault(tuple(padded), []).append(place)
    found: dict[int, dict[str, Tensor] | Exception] = {}
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            places = group[start : start + batch_size]
            found.update(zip(places, _detect(detect, [images[place] for place in places]), strict=True))
    return [found[place] for place in range(len(images))]


def _detect(detect: Detect, images: Sequence[Tensor]) -> Sequence[dict[str, Tensor] | Exception]:
    """``detect``; a batch that does not fit in memory is taken image by image."""
    try:
        return detect(images)
    except Exception as error:
        if not is_of_one_image(error):
            raise
        failure = error
    if len(images) == 1:
        return [failure]
    return [_detect(detect, [image])[0] for image in images]


def is_of_one_image(error: Exception) -> bool:
    """Whether other images may be predicted on."""
    if isinstance(error, RuntimeError):
        return "allocate" in str(error)  # the allocator of CPU or GPU
    return isinstance(error, (OSError, ImageDecodeError, MemoryError))


def reason(error: Exception) -> str:
    """An image's error as one line."""
    return str(error).partition("\n")[0] or "not enough memory"
