"""Optimizer and learning-rate schedule of a configuration."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..config.settings import Config


def build_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """SGD or AdamW, with separate rates and decays of weights, norm layers and convolutions' biases.

    On CPU and CUDA a step changes nothing if ``optimizer.found_inf``, a float tensor [] on the device, is 1.
    """
    schedule = config.schedule
    weights, biases, norms = [], [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name == "bias" and isinstance(module, nn.Conv2d):
                biases.append(parameter)
            elif isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)) or parameter.dim() < 2:
                norms.append(parameter)
            else:
                weights.append(parameter)
    decay = schedule.weight_decay
    # with SGD norms decay like weights, as in MMDetection; with AdamW they usually do not
    groups = [
        {"params": weights, "lr": schedule.lr, "weight_decay": decay},
        {"params": norms, "lr": schedule.lr, "weight_decay": decay if schedule.optimizer == "sgd" else 0.0},
        {"params": biases, "lr": schedule.lr * schedule.bias_lr_factor, "weight_decay": schedule.bias_weight_decay},
    ]
    groups = [group for group in groups if group["params"]]
    # only fused steps support `found_inf`, which skips a bad step without a host synchronization
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    if schedule.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=schedule.lr, momentum=schedule.momentum, fused=fused)
        if schedule.momentum:  # otherwise made by the first step, and missing if that one is skipped
            for parameter in (p for group in groups for p in group["params"]):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    return torch.optim.AdamW(groups, lr=schedule.lr, fused=fused)


def check_schedule(config: Config) -> None:
    """ValueError for milestones of a schedule that has none."""
    if config.schedule.milestones and config.schedule.kind == "cosine":
        raise ValueError(f"schedule.kind=cosine has no schedule.milestones, got {config.schedule.milestones}")


def first_iteration(epoch: float, length: int) -> int:
    """The first iteration at or after ``epoch``, a fraction included, where an epoch has ``length`` iterations."""
    return math.ceil(epoch * length - 1e-9)


class LearningRate:
    """The factor on every group's rate at an iteration: warm-up, then a tenth at each milestone or half a cosine.

    The cosine is that of PyTorch's CosineAnnealingLR over the iterations after the warm-up. The factor depends on the
    iteration only, so there is no state to resume.
    """

    def __init__(self, config: Config, iterations_per_epoch: int) -> None:
        schedule = self.schedule = config.schedule
        self.milestones = [first_iteration(epoch, iterations_per_epoch) for epoch in config.milestones()]
        self.iterations = schedule.epochs * iterations_per_epoch

    def factor(self, iteration: int) -> float:
        """The factor of iteration 0, 1, ..."""
        factor = 0.1 ** sum(iteration >= milestone for milestone in self.milestones)
        warmup = self.schedule.warmup_iterations
        if iteration < warmup:
            start = self.schedule.warmup_factor
            if self.schedule.warmup == "linear":
                start += (1 - start) * iteration / warmup
            return factor * start
        if self.schedule.kind == "cosine":
            progress = (iteration - warmup) / max(1, self.iterations - warmup)
            end = self.schedule.end_factor
            return end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2
        return factor

    def apply(self, optimizer: torch.optim.Optimizer, iteration: int) -> float:
        """Sets the rates of the groups for ``iteration`` and returns the rate of the first."""
        factor = self.factor(iteration)
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        return optimizer.param_groups[0]["lr"]
