"""Robust decoding of image files to RGB."""

from __future__ import annotations

import functools
import io
import logging
import os
import warnings
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ..errors import ImageDecodeError
from .orientation import turned

_LOG = logging.getLogger(__name__)

# Not all formats of Pillow: it passes .eps files to Ghostscript, which runs programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Image formats that are read, if the installed Pillow supports them. The content decides, not the name of the file; of
several frames the first is read."""

MAX_BYTES = 2**30
"""No image file is read beyond this size."""


def decode_image(
    data: bytes, size: tuple[int, int] | None = None, note: Callable[[str], None] = _LOG.warning
) -> torch.Tensor:
    """Decodes an encoded image of any mode (gray, palette, CMYK, 16-bit, float, with alpha) to uint8 [3, H, W], RGB.

    An alpha channel is dropped. 16-bit grays keep their high byte. Float grays are read as 0..1, independent of the
    image's maximum, as torchvision's ``to_dtype(scale=True)`` reads them; NaN and infinite pixels are black. Values
    outside of their range are clipped, and ``note`` is called with a line about it.

    The EXIF orientation is applied as :mod:`~mlc_ext.detectors.data.images.orientation` defines; ``size`` is the
    (height, width) that the annotations give.

    Raises:
        ImageDecodeError: not one of `FORMATS`, broken or truncated data, a decompression bomb, or a size that
            does not agree (seen in the header: such a file is not decoded).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on EXIF, palettes and large images
            image = Image.open(io.BytesIO(data), formats=_formats())
            if size is not None and image.size not in (size, size[::-1]):
                raise _differs(image, size)
            image.load()
            image = to_rgb(turned(image, size), note)
    except (MemoryError, ImageDecodeError):
        raise
    except UnidentifiedImageError as error:  # its own text is the address of a Python object
        raise ImageDecodeError(f"cannot be decoded: {_what(data)}") from error
    except Exception as error:  # Pillow's decoders raise some ten unrelated types on broken files
        raise ImageDecodeError(f"cannot be decoded: {error}") from error
    if size is not None and image.size != size[::-1]:
        raise _differs(image, size)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def read_image(path: str | os.PathLike) -> bytes:
    """The bytes of an image file. Raises OSError, or ImageDecodeError for a file larger than `MAX_BYTES`."""
    with open(path, "rb") as file:
        if (length := os.fstat(file.fileno()).st_size) > MAX_BYTES:
            raise ImageDecodeError(f"has {length} bytes, the limit is {MAX_BYTES}")
        return file.read()


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _differs(image: Image.Image, size: tuple[int, int]) -> ImageDecodeError:
    return ImageDecodeError(f"is {image.width}x{image.height} pixels, but the annotations give {size[1]}x{size[0]}")


def _what(data: bytes) -> str:
    return f"no image of a known format, begins with {data[:8]!r}" if data else "an empty file"


def to_rgb(image: Image.Image, note: Callable[[str], None] = _LOG.warning) -> Image.Image:
    """The image in mode RGB, converted as :func:`decode_image` describes."""
    if image.mode.startswith("I"):  # 16 bits, or 32 that hold 16 (Pillow's own conversion would clip at 255)
        image = Image.fromarray((_clipped(np.asarray(image), 65535, note) >> 8).astype(np.uint8))
    elif image.mode == "F":
        image = Image.fromarray((_clipped(np.asarray(image), 1, note) * 255.999).astype(np.uint8))
    elif image.mode in ("P", "PA"):  # a palette's own transparency needs the alpha channel in between
        image = image.convert("RGBA")
    return image.convert("RGB")


def _clipped(values: np.ndarray, most: int, note: Callable[[str], None]) -> np.ndarray:
    """`values` clipped to 0..most; values that are not finite become 0."""
    finite = np.isfinite(values)
    values = np.where(finite, values, 0)
    low, high = values.min(), values.max()
    if low < 0 or high > most:
        seen = f"has values of {low:g} to {high:g}, of a {values.dtype} image read as 0..{most}"
        note(f"{seen}: values outside are clipped")
    if not finite.all():
        note(f"has {np.count_nonzero(~finite)} pixels that are NaN or infinite, read as black")
    return np.clip(values, 0, most)
