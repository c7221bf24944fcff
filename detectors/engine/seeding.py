"""Seeds of the random generators."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from mlc_ext.sampling import draws_by_image


def seed_everything(*key: int) -> None:
    """Seeds Python, numpy and torch (all devices) with one number, or with a mix of several."""
    seed = key[0] if len(key) == 1 else _mix(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def draws_of_step(seed: int, iteration: int, rank: int, image_ids: Sequence[int]) -> Iterator[None]:
    """Within, random draws depend only on the arguments: a resumed run has no generator state to restore.

    The generators depend on (seed, iteration, rank). The sampling of priors (RPN) depends on (seed, iteration, image):
    it is the same however a batch is divided among ranks and parts.
    """
    seed_everything(seed, iteration, rank)
    with draws_by_image([_mix(seed, iteration, int(number) % 2**64) for number in image_ids]):
        yield


def _mix(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))  # torch takes 63 bits
