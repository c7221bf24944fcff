"""Robust decoding of image files to RGB."""

from __future__ import annotations

import functools
import io
import os
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

_EXIF_ORIENTATION = 0x0112

# Not all that Pillow reads: an .eps, say, would be handed to Ghostscript, which runs programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Image formats that are read (as far as this Pillow can), by their content, whatever the file is called; of several
frames the first."""

MAX_BYTES = 2**30
"""No image file is read beyond this size."""


class ImageDecodeError(ValueError):
    """The bytes are no whole image, or one of another size than announced."""


def decode_image(data: bytes, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Decodes an encoded image of any mode (gray, palette, CMYK, 16-bit, with alpha) to uint8 [3, H, W], RGB.

    16-bit grays keep their high byte; an alpha channel is dropped. `size` is the (height, width) that the
    annotations speak of: the EXIF rotation is applied only where that makes the sizes agree, as it is the
    annotations' frame that the boxes live in. Without `size` the EXIF rotation is always applied, as a viewer
    does.

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
            if size is None or image.size != size[::-1]:
                turned = _exif_turned(image)
                if size is None or turned.size == size[::-1]:
                    image = turned
            image = _to_rgb(image)
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
            raise ImageDecodeError(f"has {length} bytes, which no image has that is read here (at most {MAX_BYTES})")
        return file.read()


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _differs(image: Image.Image, size: tuple[int, int]) -> ImageDecodeError:
    return ImageDecodeError(f"is {image.width}x{image.height} pixels, but the annotations say {size[1]}x{size[0]}")


def _what(data: bytes) -> str:
    return f"no image of a known format, begins with {data[:8]!r}" if data else "an empty file"


def _exif_turned(image: Image.Image) -> Image.Image:
    try:
        if image.getexif().get(_EXIF_ORIENTATION, 1) == 1:
            return image
        return ImageOps.exif_transpose(image)
    except Exception:  # broken metadata (any of several types) is no reason to lose the picture
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, or 32 that hold 16 (Pillow's own conversion would clip at 255)
        image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))
    elif image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        scale = 255.0 if values.max(initial=0.0) <= 1.0 else 1.0
        image = Image.fromarray(np.clip(values * scale, 0, 255).astype(np.uint8))
    elif image.mode in ("P", "PA"):  # a palette's own transparency needs the alpha channel in between
        image = image.convert("RGBA")
    return image.convert("RGB")
