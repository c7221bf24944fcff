"""Weights of a backbone that expects other pixel values than this project's."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.backbones.base import Normalization

CONV, MEAN = "backbone.conv1.weight", "backbone.bn1.running_mean"
"""The first convolution of a ResNet and the statistics that follow it."""


def same_input(a: Normalization, b: Normalization) -> bool:
    """Whether both make the same values of an image."""
    return a.order == b.order and all(torch.allclose(x, y, rtol=1e-5) for x, y in zip(_line(a), _line(b), strict=True))


def for_input(tensors: dict[str, Tensor], given: Normalization, wanted: Normalization) -> dict[str, Tensor]:
    """A ResNet's first convolution and batch norm, trained for images normalized by ``given``, for ``wanted``.

    Normalization is linear, so the convolution's weights take the factor and its channels the order, and the running
    mean takes the offset. Exact but for the image's border, where the convolution is padded with zeros.
    """
    weight = tensors[CONV]
    factor, offset = _line(given)
    if given.order != wanted.order:
        weight, factor, offset = weight.flip(1), factor.flip(0), offset.flip(0)
    other_factor, other_offset = _line(wanted)
    ratio = factor / other_factor  # given = ratio * wanted + difference
    difference = other_offset * ratio - offset
    constant = (weight.double() * difference[:, None, None]).sum((1, 2, 3))
    return tensors | {
        CONV: (weight.double() * ratio[:, None, None]).to(weight.dtype),
        MEAN: (tensors[MEAN].double() - constant).to(tensors[MEAN].dtype),
    }


def _line(n: Normalization) -> tuple[Tensor, Tensor]:
    """Normalized = pixel in 0..1 * factor - offset, channels in the order of ``n``."""
    mean, std = (torch.tensor(x, dtype=torch.float64) for x in (n.mean, n.std))
    return n.scale / std, mean / std
