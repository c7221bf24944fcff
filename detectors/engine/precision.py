"""Precision, memory layout, compilation, determinism."""

from __future__ import annotations

import os

import torch
from torch import nn

from ..config.settings import PRECISIONS, RunConfig
from ..models.memory_layout import set_memory_layout

_DTYPES = dict(zip(PRECISIONS, (None, torch.bfloat16, torch.float16), strict=True))


def configure(run: RunConfig) -> None:
    """Settings of the whole process: threads, TF32, deterministic algorithms."""
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn.conv):
        backend.fp32_precision = "tf32" if run.tf32 else "ieee"
    if run.deterministic:  # read by cuBLAS when it starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(run.deterministic)


def prepare(model: nn.Module, run: RunConfig) -> None:
    """Memory layout and compilation of a detector that is on its device, in place; names of weights stay."""
    set_memory_layout(model, run)
    if run.compile is not None:
        for module in (model.backbone, model.fpn, model.head):
            module.compile(backend=run.compile)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass and its losses; does nothing for fp32."""
    dtype = _DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
