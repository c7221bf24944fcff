"""How the arithmetic is done: precision, memory layout, compilation, determinism, and where random draws come from."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from .config import PRECISIONS, RunConfig
from .sampling import draws_by_image

_DTYPES = dict(zip(PRECISIONS, (None, torch.bfloat16, torch.float16), strict=True))


def configure(run: RunConfig) -> None:
    """The switches that are the process's: threads, TF32, deterministic algorithms."""
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn.conv):
        backend.fp32_precision = "tf32" if run.tf32 else "ieee"
    if run.deterministic:  # cuBLAS reads it when it starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(run.deterministic)


def prepare(model: nn.Module, run: RunConfig) -> None:
    """Memory layout and compilation of a detector that is on its device, in place; names of weights stay."""
    set_memory_layout(model, run)
    if run.compile is not None:
        for module in (model.backbone, model.fpn, model.head):
            module.compile(backend=run.compile)


def set_memory_layout(model: nn.Module, run: RunConfig) -> None:
    """channels_last or not, of the weights and of what the backbone is given."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    if on_cpu if run.channels_last is None else run.channels_last:
        model.to(memory_format=torch.channels_last)
        model.backbone.register_forward_pre_hook(_channels_last)


def _channels_last(module: nn.Module, arguments: tuple) -> tuple:
    return (arguments[0].contiguous(memory_format=torch.channels_last),)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass and its losses; fp32 switches nothing."""
    dtype = _DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


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
