"""Random sampling of priors per image, without a host synchronisation."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_at_most(mask: Tensor, limit: int | Tensor, largest: int) -> Tensor:
    """A random subset of each row's True entries.

    Args:
        mask: [B, A] bool.
        limit: how many of a row, an int or [B].
        largest: an upper bound of ``limit`` known to the host.

    Returns:
        [B, A] bool, a subset of ``mask`` with min(limit, count) entries a row, all subsets equally likely.
    """
    largest = min(largest, mask.shape[1])
    if largest == 0:
        return torch.zeros_like(mask)
    keys = torch.where(mask, torch.rand(mask.shape, device=mask.device), -1.0)
    best, index = keys.topk(largest, dim=1)
    rank = torch.arange(largest, device=mask.device)
    within = rank < (limit[:, None] if isinstance(limit, Tensor) else limit)
    return torch.zeros_like(mask).scatter_(1, index, within & (best >= 0))


def sample_balanced(positive: Tensor, negative: Tensor, size: int, max_positive: int) -> tuple[Tensor, Tensor]:
    """``size`` priors an image, at most ``max_positive`` of them positive, the rest negatives (RPN).

    Args:
        positive, negative: [B, A] bool.

    Returns:
        The sampled positives and negatives, [B, A] bool each.
    """
    positive = sample_at_most(positive, max_positive, max_positive)
    room = size - positive.sum(1)
    return positive, sample_at_most(negative, room, size)
