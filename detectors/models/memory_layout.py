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


def unset_memory_layout(model: nn.Module) -> None:
    """Undoes :func:`set_memory_layout`: torch's own layout, which torch.export needs for sizes that may be 1."""
    model.to(memory_format=torch.contiguous_format)
    hooks = model.backbone._forward_pre_hooks  # of a deep copy too, whose handles are lost
    for key in [key for key, hook in hooks.items() if hook is _channels_last]:
        del hooks[key]
