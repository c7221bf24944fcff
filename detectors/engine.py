"""Training: the loop, its log, its checkpoint."""

from __future__ import annotations

import json
import logging
import math
import random
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .builder import CACHE, build_datasets, build_model
from .checkpoint import load_checkpoint, save_checkpoint
from .config import Config
from .data.loader import build_loader
from .evaluate import evaluate
from .optim import LearningRate, build_optimizer
from .watch import Watch

_LOG = logging.getLogger("detectors")

REPORTED = (
    ("AP", "AP"),
    ("AP50", "AP50"),
    ("AP75", "AP75"),
    ("APs", "APs"),
    ("APm", "APm"),
    ("APl", "APl"),
    ("AR@100", "AR@100"),
    ("AR@300", "AR@300"),
    ("AR@1000", "AR@1000"),
    ("correlation", "corr(gt)"),
    ("correlation_pooled", "corr(pooled)"),
)
"""Metrics as they are printed: key, heading."""

SHORT_NAMES = {
    "classification": "cls",
    "bbox_regression": "box",
    "bbox_ctrness": "ctr",
    "iou_rescoring": "iou",
    "prediction_alignment": "align",
}
"""Losses as the progress bar shows them."""


class NonFiniteLoss(RuntimeError):
    """The loss is NaN or infinite; the message holds the losses and the image ids."""


def pick_device(name: str) -> torch.device:
    """`name`, or for "auto" the GPU if there is one. ValueError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be cpu, cuda, cuda:N or auto, got {name!r}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r}: torch sees {torch.cuda.device_count()} GPUs")
    return device


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def report(*columns: dict[str, float], names: tuple[str, ...] = ()) -> str:
    """Metrics as a table: a row a run, AP and AR in percent as COCO prints them."""
    shown = [(key, heading) for key, heading in REPORTED if any(key in metrics for metrics in columns)]
    header = " ".join(f"{heading:>12}" for _, heading in shown)
    width = max((len(name) for name in names), default=0) + 2
    lines = [f"{'':{width}}{header}" if names else header]
    for i, metrics in enumerate(columns):
        cells = []
        for key, _ in shown:
            value = metrics.get(key, math.nan)
            percent = key.startswith(("AP", "AR"))
            cell = "-" if math.isnan(value) else f"{100 * value:.1f}" if percent else f"{value:.3f}"
            cells.append(f"{cell:>12}")
        lines.append((f"{names[i]:{width}}" if names else "") + " ".join(cells))
    return "\n".join(lines)


class Trainer:
    """One run: builds everything from the configuration, trains, evaluates, writes ``config.run.out``.

    Files: ``checkpoint.pt``, ``metrics.json`` (result and history), ``log.txt``, ``config.json``.
    """

    def __init__(self, config: Config, *, progress: bool = True) -> None:
        self.config, self.progress = config, progress
        self.out = Path(config.run.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self._open_log()
        if config.run.threads is not None:
            torch.set_num_threads(config.run.threads)
        self.device = pick_device(config.run.device)
        seed_everything(config.run.seed)
        self.train_set, self.val_set = build_datasets(config, CACHE, progress=progress)
        if self.val_set.label_to_category != self.train_set.label_to_category:
            raise ValueError(
                f"the categories of {self.val_set.annotation_file} are not those of {self.train_set.annotation_file}"
            )
        self.loader = build_loader(
            self.train_set,
            config.schedule.batch_size,
            shuffle=True,
            num_workers=config.data.workers,
            seed=config.run.seed,
        )
        self.model = build_model(config, self.train_set.num_classes).to(self.device)
        self.optimizer = build_optimizer(self.model, config)
        self.rate = LearningRate(config, len(self.loader))
        self.iteration = 0
        self.history: list[dict] = []
        names = self.train_set.category_names
        self.watch = Watch(self.out / "tensorboard", names) if config.run.tensorboard else None
        config.save(self.out / "config.json")

    def _open_log(self) -> None:
        for handler in list(_LOG.handlers):
            _LOG.removeHandler(handler)
            handler.close()
        handler = logging.FileHandler(self.out / "log.txt")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        _LOG.addHandler(handler)
        _LOG.setLevel(logging.INFO)

    @property
    def total_iterations(self) -> int:
        return self.config.schedule.epochs * len(self.loader)

    def resume(self, path: Path) -> None:
        """Goes on from a checkpoint of a run with the same data and model."""
        state = load_checkpoint(path)
        if state["num_classes"] != self.train_set.num_classes:
            raise ValueError(f"{path} was trained on {state['num_classes']} classes, the data have "
                             f"{self.train_set.num_classes}")
        if "optimizer" not in state:
            raise ValueError(f"{path} holds no optimiser state to resume from")
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} does not fit this configuration's model: {error}") from error
        self.iteration, self.history = state["iteration"], state["history"]
        self.loader.load_state_dict(state["loader"])
        torch.set_rng_state(state["rng"])

    def save(self) -> Path:
        """Writes checkpoint.pt."""
        path = self.out / "checkpoint.pt"
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "config": self.config.to_dict(),
            "num_classes": self.train_set.num_classes,
            "categories": self.train_set.category_names,
            "category_ids": list(self.train_set.label_to_category.values()),
            "iteration": self.iteration,
            "history": self.history,
            "loader": self.loader.state_dict(),
            "rng": torch.get_rng_state(),
        }
        save_checkpoint(path, state)
        return path

    def run(self) -> dict[str, float]:
        """Trains to the end, evaluates and returns the metrics.

        Ctrl-C and SIGTERM (a scheduler's end of time) end the step in progress, save a checkpoint and raise
        KeyboardInterrupt; a second one raises it at once and saves nothing, as half a step may have been taken.
        """
        _LOG.info("%s", self.train_set.summary())
        parameters = sum(p.numel() for p in self.model.parameters())
        _LOG.info("%d parameters, %d iterations on %s", parameters, self.total_iterations, self.device)
        bar = tqdm(total=self.total_iterations, initial=self.iteration, disable=not self.progress, unit="it",
                   dynamic_ncols=True, mininterval=0.5)
        with _Interruption() as self._interruption:
            try:
                while self.iteration < self.total_iterations:
                    self._epoch(bar)
                    epoch = self.iteration // len(self.loader)
                    every = self.config.run.eval_every
                    if every and epoch % every == 0 and self.iteration < self.total_iterations:
                        self._evaluate()
                        self.save()
                self.save()
                metrics = self._evaluate()
            except KeyboardInterrupt:
                bar.close()
                _LOG.info("interrupted at iteration %d", self.iteration)
                if not self._interruption.deferring:
                    path = self.save()
                    place = f"iteration {self.iteration} of {self.total_iterations}"
                    print(f"interrupted: {path} holds {place}", file=sys.stderr)
                raise
            finally:
                bar.close()
                if self.watch:
                    self.watch.close()
            self.save()
        return metrics

    def _epoch(self, bar: tqdm) -> None:
        """The rest of the current epoch."""
        epoch = self.iteration // len(self.loader)
        self.loader.set_epoch(epoch)
        self.model.train()
        began, seen, sums = time.perf_counter(), 0, {}
        self._interruption.deferring = True  # from a batch's loading to its step: one place in data and weights
        for images, targets in self.loader:
            losses = self.step(images, targets)
            seen += len(images)
            for name, value in losses.items():
                sums.setdefault(name, []).append(value)
            bar.update()
            if self.iteration % self.config.run.log_every == 0 or self.iteration % len(self.loader) == 0:
                self._log(bar, sums, seen / (time.perf_counter() - began))
                if self.watch and self.iteration % len(self.loader) == 0:
                    self.watch.log_images(self.iteration, self.model, images, targets)
                began, seen, sums = time.perf_counter(), 0, {}
            self._interruption.check()
        self._interruption.deferring = False

    def step(self, images: list[Tensor], targets: list[dict]) -> dict[str, Tensor]:
        """One iteration; the losses are left on the device, so nothing waits for it."""
        self.rate.apply(self.optimizer, self.iteration)
        self.model.set_epoch(self.iteration / len(self.loader))
        images = [image.to(self.device, non_blocking=True) for image in images]
        losses = self.model(images, targets)
        total = sum(losses.values())
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        clip = self.config.schedule.clip_grad
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        self.iteration += 1
        self._last_ids = [target["image_id"] for target in targets]
        return {name: value.detach() for name, value in (losses | {"loss": total}).items()}

    def _log(self, bar: tqdm, sums: dict[str, list[Tensor]], images_per_second: float) -> None:
        """Writes the means since the last entry; here, and only here, the losses are fetched."""
        means = {name: torch.stack(values).mean().item() for name, values in sums.items()}
        if not all(math.isfinite(value) for value in means.values()):
            message = f"loss is not finite at iteration {self.iteration}: {means}; last images {self._last_ids}"
            _LOG.error("%s", message)
            raise NonFiniteLoss(message)
        entry = {
            "iteration": self.iteration,
            "epoch": self.iteration / len(self.loader),
            "lr": self.optimizer.param_groups[0]["lr"],
            "mutual": self.model.mutual,
            "images_per_second": images_per_second,
            **means,
        }
        self.history.append(entry)
        if self.watch:
            self.watch.log_scalars(self.iteration, {key: entry[key] for key in entry if key != "iteration"})
        shown = {SHORT_NAMES.get(name, name): f"{value:.3f}" for name, value in means.items()}
        bar.set_description(f"epoch {entry['epoch']:.1f}{' ML' if entry['mutual'] else ''}")
        bar.set_postfix(**shown, ips=f"{images_per_second:.1f}")
        text = " ".join(f"{name} {value:.4g}" for name, value in entry.items())
        _LOG.info("%s", text)

    def _evaluate(self) -> dict[str, float]:
        run = self.config.run
        metrics = evaluate(
            self.model,
            self.val_set,
            batch_size=self.config.schedule.batch_size,
            device=self.device,
            workers=self.config.data.workers,
            correlation=run.correlation,
            backend=self.config.data.evaluator,
            progress=self.progress,
        )
        self.history.append({"iteration": self.iteration, "metrics": metrics})
        if self.watch:
            self.watch.log_scalars(self.iteration, metrics, "evaluation")
        _LOG.info("evaluation at iteration %d: %s", self.iteration, metrics)
        result = {"iteration": self.iteration, "metrics": metrics, "history": self.history}
        (self.out / "metrics.json").write_text(json.dumps(result, indent=1) + "\n")
        return metrics


class _Interruption:
    """SIGINT and SIGTERM as KeyboardInterrupt, the first of them put off to :meth:`check` while ``deferring``."""

    def __init__(self) -> None:
        self.deferring = self._pending = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> _Interruption:
        if threading.current_thread() is threading.main_thread():  # only there does Python allow handlers
            self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if not self.deferring or self._pending:
            raise KeyboardInterrupt
        self._pending = True

    def check(self) -> None:
        """Raises KeyboardInterrupt, no longer ``deferring``, if one was put off."""
        if self._pending:
            self.deferring = self._pending = False
            raise KeyboardInterrupt
