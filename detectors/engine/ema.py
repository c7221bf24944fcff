"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """A second model whose floating-point weights and buffers are averages of the first model's; counters are copied.

    The n-th update moves the averages by 1 - min(decay, (1 + n) / (10 + n)) of the difference, so early averages forget
    the random start. ``model`` is for evaluation. It is separate from the trained model, so an interrupted evaluation
    leaves nothing to restore.

    Args:
        source: the model whose weights are averaged.
        decay: in [0, 1), per step, e.g. 0.9998.
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"WeightAverage: decay must be in [0, 1), got {decay}")
        self.decay, self.updates = decay, 0
        self.model = copy.deepcopy(source).requires_grad_(False).eval()
        pairs = list(zip(self.model.state_dict().values(), source.state_dict().values(), strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Updates the averages after a step, without a host synchronization."""
        self.updates += 1
        rate = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(*map(list, zip(*self._averaged, strict=True)), rate)
        for average, value in self._copied:
            average.copy_(value)

    def state_dict(self) -> dict:
        return {"updates": self.updates, "weights": self.model.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """RuntimeError for the state of another model."""
        self.model.load_state_dict(state["weights"])
        self.updates = state["updates"]
