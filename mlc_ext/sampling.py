"""Random sampling of priors per image, without a host synchronization."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .mutual_labeling import TaskTargets

_seeds: list[int] | None = None
_generators: dict[torch.device, list[torch.Generator]] = {}


@contextlib.contextmanager
def draws_by_image(seeds: Sequence[int]) -> Iterator[None]:
    """A context in which the draws for image i of a batch depend on ``seeds[i]`` and the device alone, not on the
    batch's other images. Outside of it, draws come from torch's global generator.

    Args:
        seeds: one per image of the batches that are sampled inside.
    """
    global _seeds, _generators
    outer = _seeds, _generators
    _seeds, _generators = list(seeds), {}
    try:
        yield
    finally:
        _seeds, _generators = outer


def _uniform(shape: torch.Size, device: torch.device) -> Tensor:
    """[B, A] in [0, 1)."""
    if _seeds is None:
        return torch.rand(shape, device=device)
    if device not in _generators:
        _generators[device] = [torch.Generator(device).manual_seed(seed) for seed in _seeds]
    values = torch.empty(shape, device=device)
    for row, generator in zip(values, _generators[device], strict=True):
        row.uniform_(generator=generator)
    return values


def sample_at_most(mask: Tensor, limit: int | Tensor, largest: int, weights: Tensor | None = None) -> Tensor:
    """A random subset of each row's True entries. No host synchronization.

    Args:
        mask: [B, A] bool.
        limit: the largest size of a row's subset, an int or an integer tensor [B].
        largest: an upper bound of ``limit`` that is known on the host.
        weights: [B, A], not negative; None: a uniform draw. Entries of weight 1 or more are drawn first, all equally
            likely. The others fill the rest, drawn without replacement in proportion to their weights; those of weight
            0 are never drawn.

    Returns:
        [B, A] bool, a subset of ``mask`` with min(limit, number of True) entries per row; without ``weights`` all such
        subsets are equally likely.

    Source of the weighted draw: Efraimidis and Spirakis 2006.
    """
    largest = min(largest, mask.shape[1])
    if largest == 0:
        return torch.zeros_like(mask)
    keys = _uniform(mask.shape, mask.device)
    if weights is not None:
        keys = torch.where(weights >= 1, keys, torch.log1p(-keys) / weights)  # the latter are 0 at most
        mask = mask & (weights > 0)
    best, index = torch.where(mask, keys, float("-inf")).topk(largest, dim=1)
    rank = torch.arange(largest, device=mask.device)
    within = rank < (limit[:, None] if isinstance(limit, Tensor) else limit)
    return torch.zeros_like(mask).scatter_(1, index, within & (best > float("-inf")))


def sample_balanced(
    positive: Tensor, negative: Tensor, size: int, max_positive: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A random sample of each image's priors: at most ``max_positive`` positives, filled up with negatives to ``size``.
    No host synchronization.

    Args:
        positive, negative: [B, A] bool.
        size: the size of an image's sample, if there are as many priors. RPN: 256.
        max_positive: RPN: 128.
        weights: [B, A] of the positives' draw, as in :func:`sample_at_most`.

    Returns:
        The sampled positives and the sampled negatives, [B, A] bool each.

    Source: Ren et al. 2015 (RPN).
    """
    positive = sample_at_most(positive, max_positive, max_positive, weights)
    room = size - positive.sum(1)
    return positive, sample_at_most(negative, room, size)


def sample_classification(task: TaskTargets, num_images: int, size: int, max_positive: int) -> tuple[Tensor, Tensor]:
    """:func:`sample_balanced` of the positives and negatives of classification, by their weights.

    Args:
        task: of B * A priors.
        num_images: B.
        size, max_positive: as in :func:`sample_balanced`.

    Returns:
        The positives and negatives, [B, A] bool each.
    """
    masks = (task.cls_labels > 0, task.cls_labels == 0)
    positive, negative, weights = (x.view(num_images, -1) for x in (*masks, task.cls_weights))
    return sample_balanced(positive, negative, size, max_positive, weights)


def sample_tasks(task: TaskTargets, num_images: int, size: int, max_positive: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples of both tasks, each drawn by its own weights: :func:`sample_balanced` for classification, at most
    ``max_positive`` positives for localization. No host synchronization.

    Args:
        task, num_images, size, max_positive: as in :func:`sample_classification`.

    Returns:
        The positives and negatives of classification and the positives of localization, [B, A] bool each.
    """
    positive, negative = sample_classification(task, num_images, size, max_positive)
    of_loc, weights = (x.view(num_images, -1) for x in (task.loc_positive, task.loc_weights))
    return positive, negative, sample_at_most(of_loc, max_positive, max_positive, weights)
