"""Where random draws come from."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from mlc_ext.sampling import draws_by_image


def seed_everything(*key: int) -> None:
    """Seeds Python, numpy and torch (all devices); one number as it is, several mixed into one."""
    seed = key[0] if len(key) == 1 else _mix(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def draws_of_step(seed: int, iteration: int, rank: int, image_ids: Sequence[int]) -> Iterator[None]:
    """Within, all random draws are a function of the arguments: a resumed run has nothing to restore.

    The generators depend on (seed, iteration, rank); the sampling of priors (RPN) on (seed, iteration, image), so it
    is the same however a batch is shared by ranks or cut into parts.
    """
    seed_everything(seed, iteration, rank)
    with draws_by_image([_mix(seed, iteration, int(number) % 2**64) for number in image_ids]):
        yield


def _mix(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))  # torch takes 63 bits
