"""Robust decoding of image files to RGB."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps

_EXIF_ORIENTATION = 0x0112


class ImageDecodeError(ValueError):
    """The bytes are no whole image, or one of another size than announced."""


def decode_image(data: bytes, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Decodes an encoded image of any mode (grey, palette, CMYK, 16-bit, with alpha) to uint8 [3, H, W], RGB.

    16-bit greys keep their high byte; an alpha channel is dropped. `size` is the (height, width) that the
    annotations speak of: the EXIF rotation is applied only where that makes the sizes agree, as it is the
    annotations' frame that the boxes live in. Without `size` the EXIF rotation is always applied, as a viewer
    does.

    Raises:
        ImageDecodeError: broken or truncated data, a decompression bomb, or a size that does not agree.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on EXIF, palettes and large images
            image = Image.open(io.BytesIO(data))
            image.load()
            if size is None or image.size != size[::-1]:
                turned = _exif_turned(image)
                if size is None or turned.size == size[::-1]:
                    image = turned
            image = _to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise some ten unrelated types on broken files
        raise ImageDecodeError(f"cannot be decoded: {error}") from error
    if size is not None and image.size != size[::-1]:
        raise ImageDecodeError(
            f"is {image.width}x{image.height} pixels, but the annotations say {size[1]}x{size[0]}"
        )
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


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
