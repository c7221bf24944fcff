"""Batches of indices: aspect-ratio groups, ranks' shares, and an order that depends on seed and epoch alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


def share(batch: Sequence, part: int, parts: int) -> list:
    """The `part`-th of `parts` runs of a batch, whose lengths differ by at most one.

    A batch shorter than `parts` is filled up with its own items first: no part is empty.
    """
    whole = (list(batch) * parts)[: max(len(batch), parts)]
    return whole[len(whole) * part // parts : len(whole) * (part + 1) // parts]


class AspectRatioBatchSampler(Sampler[list[int]]):
    """Batches of indices in which portrait and landscape images do not mix, which saves padding.

    The order is a function of (seed, epoch) only. Every index comes once per epoch: the rest of the two groups is
    batched together at the end. If it does not fill its batches, it is shared out evenly over them and
    the one before: a step on one or two images, with hardly an object, can undo hundreds of others. Several ranks have
    the batches of one: each takes its `share` of every batch.

    Args:
        aspect_ratios: height / width of every image [n]; None does not group.
        batch_size: images of a batch over all ranks.
        num_samples: n, where `aspect_ratios` is None.
    """

    def __init__(
        self,
        aspect_ratios: np.ndarray | None,
        batch_size: int,
        *,
        num_samples: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0..world_size - 1, got rank {rank} of {world_size}")
        if batch_size < world_size:
            raise ValueError(f"batch_size {batch_size} leaves some of {world_size} ranks without an image")
        if (aspect_ratios is None) == (num_samples is None):
            raise ValueError("give either aspect_ratios or num_samples")
        self.num_samples = int(num_samples) if aspect_ratios is None else len(aspect_ratios)
        self._group = np.zeros(self.num_samples, dtype=bool) if aspect_ratios is None else np.asarray(aspect_ratios) > 1
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.start = 0  # batches of this epoch to skip: those before the checkpoint of a resumed run
        if len(self) == 0:
            raise ValueError("there are no images to make batches of")

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch; a new one starts at its beginning, the present one keeps its position."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return -(-self.num_samples // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches()[self.start :]:
            yield share(batch, self.rank, self.world_size)

    def batches(self) -> list[list[int]]:
        """The present epoch's, over all ranks."""
        order = np.arange(self.num_samples)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        batches: list[list[int]] = []
        pending: tuple[list[int], list[int]] = ([], [])
        for index, group in zip(order.tolist(), self._group[order].tolist(), strict=True):
            pending[group].append(index)
            if len(pending[group]) == self.batch_size:
                batches.append(pending[group].copy())
                pending[group].clear()
        rest = pending[0] + pending[1]
        if len(rest) % self.batch_size and batches:
            rest = batches.pop() + rest
        if not rest:
            return batches
        parts = -(-len(rest) // self.batch_size)
        bounds = [-(-len(rest) * part // parts) for part in range(parts + 1)]  # the larger ones first
        return batches + [rest[start:end] for start, end in itertools.pairwise(bounds)]
