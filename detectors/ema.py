"""Exponential moving average of a model's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class WeightAverage:
    """Averages of the floating-point weights and buffers; the others (counters) are copied.

    After n updates the weights move by 1 - min(decay, (1 + n) / (10 + n)) of the difference: early averages forget the
    random start.

    Args:
        model: whose weights are averaged; it starts as their copy.
        decay: in [0, 1), per step, e.g. 0.9998.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"schedule.ema must be in [0, 1), got {decay}")
        self.model, self.decay, self.updates = model, decay, 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the model's weights after a step. No host synchronisation."""
        self.updates += 1
        rate = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, values = [], []
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                averages.append(self.weights[name])
                values.append(value.detach())
            else:
                self.weights[name].copy_(value)
        torch._foreach_lerp_(averages, values, rate)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the model has the averages; its own weights come back whatever happens."""
        own = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.weights)
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def state_dict(self) -> dict[str, int | dict[str, Tensor]]:
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        """KeyError or RuntimeError for the state of another model."""
        if state["weights"].keys() != self.weights.keys():
            raise RuntimeError("the averages are of another model")
        self.updates = state["updates"]
        for name, value in state["weights"].items():
            self.weights[name].copy_(value)
