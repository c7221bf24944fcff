"""The pixels of what predictions are made on: a file, a PIL image, an array or a tensor."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.errors import ImageDecodeError
from ..data.images.decode import decode_image, read_image, to_rgb
from ..data.images.orientation import turned

Source = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
"""An image: its file, or the image itself."""

KINDS = (str, os.PathLike, Image.Image, np.ndarray, Tensor)
"""Classes of :data:`Source`, for isinstance()."""


def read_pixels(source: Source) -> Tensor:
    """The image as uint8 [3, H, W], RGB, on the CPU, turned as its EXIF orientation asks.

    Arrays are [H, W, 3] and tensors [3, H, W], RGB, uint8 or floats in 0..1.

    Raises:
        OSError, ImageDecodeError: the file cannot be read or decoded. TypeError, ValueError: another type, shape or
            range of values.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():  # a pipe would be waited for
            raise OSError("not a regular file, or a link loop")
        return decode_image(read_image(path))
    if isinstance(source, Image.Image):
        return _of_pil(source)
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3:
            raise ValueError(f"an array must have shape [H, W, 3], got {list(source.shape)}")
        source = torch.from_numpy(np.array(source)).permute(2, 0, 1)  # a copy: torch has no negative strides
    elif not isinstance(source, Tensor):
        raise TypeError(f"an image must be a path, a PIL image, an array or a tensor, got {type(source).__name__}")
    elif source.ndim != 3 or source.shape[0] != 3:
        raise ValueError(f"a tensor must have shape [3, H, W], got {list(source.shape)}")
    return _to_bytes(source.detach().cpu()).contiguous()


def _of_pil(image: Image.Image) -> Tensor:
    if 0 in image.size:
        raise ValueError(f"an image must have pixels, got size {list(image.size)}")
    try:
        image.load()
        pixels = np.array(to_rgb(turned(image, None)))
    except (MemoryError, ImageDecodeError):
        raise
    except Exception as error:  # Pillow's decoders raise some ten unrelated types on broken files
        raise ImageDecodeError(f"cannot be decoded: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _to_bytes(image: Tensor) -> Tensor:
    if image.numel() == 0:
        raise ValueError(f"an image must have pixels, got shape {list(image.shape)}")
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise TypeError(f"pixels must be uint8, or floats in 0..1, got {image.dtype}")
    low, high = (float(value) for value in image.aminmax())
    if not (low >= 0 and high <= 1):  # NaN too
        raise ValueError(f"pixels of type {image.dtype} must be in 0..1, got {low:g} to {high:g}")
    return (image.float() * 255.999).to(torch.uint8)  # as data.images.decode scales float files
