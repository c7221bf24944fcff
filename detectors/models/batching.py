"""Images of several sizes in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def batch_images(images: Sequence[Tensor], divisor: int = 32) -> tuple[Tensor, list[tuple[int, int]]]:
    """Pads normalized images [C, H_i, W_i] with zeros, at the right and bottom, to one batch [N, C, H, W] with H, W
    divisible by `divisor`.

    Device and dtype are the images'. Returns the batch and the unpadded sizes (height, width).
    """
    if not images:
        raise ValueError("batch_images needs at least one image")
    if divisor < 1:
        raise ValueError(f"divisor must be at least 1, got {divisor}")
    shape, dtype, device = images[0].shape, images[0].dtype, images[0].device
    for image in images:
        if image.ndim != 3 or image.shape[0] != shape[0] or image.dtype != dtype or image.device != device:
            raise ValueError(
                f"batch_images needs [C, H, W] images of one C, dtype and device, got {tuple(image.shape)} "
                f"{image.dtype} {image.device} beside {tuple(shape)} {dtype} {device}"
            )
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes, strict=True))
    batch = torch.zeros((len(images), shape[0], height, width), dtype=dtype, device=device)
    for slot, image, (h, w) in zip(batch, images, sizes, strict=True):
        slot[:, :h, :w].copy_(image)
    return batch, sizes
