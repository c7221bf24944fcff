"""One iteration of training: forward and backward passes, the optimizer's step, and the state they keep."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from .. import distributed
from ..config.settings import Config
from ..data.loading.sampler import share
from ..models.dense_detector import DenseDetector
from ..runs.log_file import LOG
from . import precision, seeding
from .ema import WeightAverage
from .nonfinite import FiniteGuard
from .optim import LearningRate, build_optimizer

_ADDED_LATER = (".iou_logits.", ".bbox_ctrness.")
"""In the names of layers that a run may add to those of the run that it continues."""


class Stepper:
    """The optimizer and the rest of a training step. Call :meth:`connect` before the first step.

    Args:
        model: on its device.
        config: ``schedule`` and ``run.seed`` are used.
        iterations_per_epoch: length of the loader.
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
        """False only while the optimizer changes the weights: a step that fails before has left them unchanged."""

    def connect(self) -> None:
        """Wraps the model for data-parallel training; collective over all ranks."""
        self._parallel = distributed.parallel(self.model)

    def step(self, iteration: int, images: list[Tensor], targets: list[dict], batch_size: int) -> dict[str, Tensor]:
        """The step of iteration 0, 1, ... on this rank's share of a batch of ``batch_size`` images.

        Returns the losses, their sum ``loss`` and ``grad_norm``; they stay on the device, the host does not wait.
        """
        self.rate.apply(self.optimizer, iteration)
        self.model.set_epoch(iteration / self.iterations_per_epoch)
        self.optimizer.zero_grad(set_to_none=True)
        self._remember_statistics()
        parts = min(self.schedule.accumulate, max(1, batch_size // distributed.world_size()))
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
        """Forward and backward pass of one of ``parts`` parts -> its share of the step's losses and their sum."""
        images = [image.to(self.device, non_blocking=True) for image in images]
        with precision.autocast(self.device, self.schedule.precision):
            losses = {name: value / parts for name, value in self._parallel(images, targets).items()}
        total = sum(losses.values())
        self.scaler.scale(total).backward()
        return {name: value.detach() for name, value in (losses | {"loss": total}).items()}

    def _remember_statistics(self) -> None:
        """With several ranks, copies the buffers that the forward pass changes, for :meth:`undo`."""
        if distributed.world_size() > 1:
            self._statistics = {name: buffer.clone() for name, buffer in self.model.named_buffers()}

    def undo(self) -> bool:
        """After a step that failed because another rank is gone: restores the state before it, if possible.

        Returns whether it did. Never on GPUs: there the error may be raised after the weights have changed.
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

    def start_from(self, tensors: dict[str, Tensor]) -> None:
        """Replaces weights before the first step; the averages start from them too."""
        self.model.load_state_dict(tensors, strict=False)
        if self.average is not None:
            self.average.model.load_state_dict(self.model.state_dict())

    def load_state_dict(self, state: dict) -> None:
        """Restores :meth:`state_dict`. What the state lacks keeps its initial value: averages, a loss scale, the IoU or
        centerness layer of a run that continues a baseline. ValueError if the optimizer's state is of other parameters.
        """
        own = self.model.state_dict()
        new = [name for name in own if any(layer in name for layer in _ADDED_LATER) and name not in state["model"]]
        added = {name: own[name] for name in new}
        if added:
            LOG.info("not in the checkpoint, initialized as in a new run with this seed: %s", ", ".join(added))
        self.model.load_state_dict(state["model"] | added)
        optimizer = self.optimizer.state_dict()  # its groups are of the configuration: changed settings apply
        self.optimizer.load_state_dict(optimizer | {"state": self._of_parameters(state["optimizer"], added)})
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            average = state["ema"] or {"updates": 0, "weights": state["model"]}
            self.average.load_state_dict(average | {"weights": average["weights"] | added})

    def _of_parameters(self, optimizer: dict, added: dict[str, Tensor]) -> dict[int, dict]:
        """An optimizer's state by the numbers that the parameters have here, where those named in ``added`` are new."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        numbers = [number for number, parameter in enumerate(self._parameters) if names[parameter] not in added]
        saved = sum(len(group["params"]) for group in optimizer["param_groups"])
        if saved != len(numbers):
            raise ValueError(f"its optimizer has {saved} parameters, this configuration trains {len(numbers)}")
        new = {
            number: values for number, values in self.optimizer.state_dict()["state"].items() if number not in numbers
        }
        return new | {numbers[number]: values for number, values in optimizer["state"].items()}
