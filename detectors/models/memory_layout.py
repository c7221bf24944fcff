"""The memory layout of a model's weights and feature maps."""

from __future__ import annotations

import torch
from torch import nn

from ..config.settings import RunConfig


def set_memory_layout(model: nn.Module, run: RunConfig) -> None:
    """channels_last or not, of the weights and of what the backbone is given."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    if on_cpu if run.channels_last is None else run.channels_last:
        model.to(memory_format=torch.channels_last)
        model.backbone.register_forward_pre_hook(_channels_last)


def _channels_last(module: nn.Module, arguments: tuple) -> tuple:
    return (arguments[0].contiguous(memory_format=torch.channels_last),)
