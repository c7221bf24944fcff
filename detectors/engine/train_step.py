"""One iteration of training: forward and backward passes, the optimizer's step, and the state they keep."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from .. import distributed
from ..config.settings import Config
from ..data.sampler import share
from ..models.dense_detector import DenseDetector
from . import precision, seeding
from .ema import WeightAverage
from .nonfinite import FiniteGuard
from .optim import LearningRate, build_optimizer


class Stepper:
    """The optimizer and all that goes with a step. :meth:`connect` it before the first one.

    Args:
        model: on its device.
        config: ``schedule`` and the run's seed are read.
        iterations_per_epoch: of the loader.
    """

    def __init__(self, model: DenseDetector, config: Config, iterations_per_epoch: int, device: torch.device) -> None:
        schedule = config.schedule
        self.model, self.schedule, self.seed, self.device = model, schedule, config.run.seed, device
        self.iterations_per_epoch = iterations_per_epoch
        self.optimizer = build_optimizer(model, config)
        self.rate = LearningRate(config, iterations_per_epoch)
        self.scaler = torch.amp.GradScaler(device.type, enabled=schedule.precision == "fp16")
        self.guard = FiniteGuard(device, scaled=self.scaler.is_enabled())
        self.average = None if schedule.ema is None else WeightAverage(model, schedule.ema)
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._statistics: dict[str, Tensor] = {}
        self.undone = True
        """Whether the step begun last left the weights alone, if it failed."""

    def connect(self) -> None:
        """Joins the ranks' models; an exchange between all of them."""
        self._parallel = distributed.parallel(self.model)

    def take(self, iteration: int, images: list[Tensor], targets: list[dict], whole_batch: int) -> dict[str, Tensor]:
        """The step of iteration 0, 1, ... on this rank's share of a batch of ``whole_batch`` images.

        Returns the losses, ``loss`` their sum and ``grad_norm``, on the device: nothing waits for it.
        """
        self.rate.apply(self.optimizer, iteration)
        self.model.set_epoch(iteration / self.iterations_per_epoch)
        self.optimizer.zero_grad(set_to_none=True)
        self._remember_statistics()
        parts = min(self.schedule.accumulate, max(1, whole_batch // distributed.world_size()))
        sums: dict[str, Tensor] = {}
        for part in range(parts):
            some_images, some_targets = share(images, part, parts), share(targets, part, parts)
            ids = [target["image_id"] for target in some_targets]
            last = part == parts - 1
            with (
                seeding.draws_of_step(self.seed, iteration, distributed.rank(), ids),
                contextlib.nullcontext() if last else distributed.without_exchange(self._parallel),
            ):
                for name, value in self._backward(some_images, some_targets, parts).items():
                    sums[name] = sums[name] + value if name in sums else value
        self.scaler.unscale_(self.optimizer)
        clip = float("inf") if self.schedule.clip_grad is None else self.schedule.clip_grad
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, clip)
        self.optimizer.found_inf = self.guard.observe(iteration, sums["loss"], norm)
        self.undone = False
        self.optimizer.step()
        self.scaler.update()
        if self.average is not None:
            self.average.update()
        self.undone = True
        self._statistics = {}
        return sums | {"grad_norm": norm}

    def _backward(self, images: list[Tensor], targets: list[dict], parts: int) -> dict[str, Tensor]:
        """Forward and backward pass of one of ``parts`` parts -> its share of the step's losses, and their sum."""
        images = [image.to(self.device, non_blocking=True) for image in images]
        with precision.autocast(self.device, self.schedule.precision):
            losses = {name: value / parts for name, value in self._parallel(images, targets).items()}
        total = sum(losses.values())
        self.scaler.scale(total).backward()
        return {name: value.detach() for name, value in (losses | {"loss": total}).items()}

    def _remember_statistics(self) -> None:
        """Where another rank may be lost in the middle of a step: what the forward pass changes."""
        if distributed.world_size() > 1:
            self._statistics = {name: buffer.clone() for name, buffer in self.model.named_buffers()}

    def undo(self) -> bool:
        """After a step that failed for want of another rank: whether weights and statistics are again those before.

        Not on GPUs, where the failure may show when the weights have long taken it in.
        """
        if not self.undone or self.device.type != "cpu":
            return False
        for name, buffer in self.model.named_buffers():
            if name in self._statistics:
                buffer.copy_(self._statistics[name])
        return True

    def state_dict(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Takes up :meth:`state_dict`; one without averages or loss scale, if that is allowed, begins with new ones."""
        self.model.load_state_dict(state["model"])
        groups = self.optimizer.state_dict()["param_groups"]  # the configuration's: a setting that may change, changes
        self.optimizer.load_state_dict(state["optimizer"] | {"param_groups": groups})
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["ema"] or {"updates": 0, "weights": state["model"]})
