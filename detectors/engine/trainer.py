"""Training: the loop, its steps, its files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Subset
from tqdm import tqdm

from .. import distributed
from ..config.settings import Config
from ..data.build import CACHE, build_datasets, require_objects, verify
from ..data.categories import require_trained
from ..data.loader import build_loader
from ..evaluation.label_statistics import label_statistics
from ..evaluation.measure import evaluate, rank_batch
from ..models.build import build_model
from ..models.dense_detector import DenseDetector
from ..runs.checkpoint import (
    NAME,
    VERSIONS,
    as_misfit,
    check_unchanged,
    load_checkpoint,
    load_newest,
    save_checkpoint,
    set_aside,
    tidy,
)
from ..runs.files import plain, write_whole
from ..runs.metrics_log import SHORT_NAMES, MetricsLog
from ..visualization.tensorboard import Watch
from . import precision, seeding
from .nonfinite import NonFiniteLoss, describe
from .signals import Interruption
from .train_step import Stepper

_LOG = logging.getLogger("mlc_ext.detectors")


class Trainer:
    """One run: builds everything from the configuration, trains, evaluates, writes ``config.run.out``.

    Files: ``checkpoint.pt`` and those before it, ``metrics.jsonl`` (log entries and evaluations, one a line),
    ``metrics.json`` (result and history), ``log.txt``, ``config.json``. With several ranks (detectors.distributed) all
    make one and rank 0 alone writes and prints.
    """

    def __init__(self, config: Config, *, progress: bool = True) -> None:
        self.config = config
        self.main = distributed.is_main()
        self.progress = progress and self.main
        self.out = Path(config.run.out)
        with distributed.together():
            self._open_files()
            precision.configure(config.run)
            self.device = distributed.pick_device(config.run.device)
            self.train_set, self.val_set = build_datasets(config, CACHE, progress=self.progress)
        self._compare_data()
        verify(config, self.train_set, self.val_set, progress=self.progress)
        with distributed.together():
            self._build()
        self.stepper.connect()
        self.iteration = 0
        self._saved_at: int | None = None
        self._resumed_from: Path | None = None

    def _compare_data(self) -> None:
        """SetupError where a rank has other data than the first: one incomplete copy, and they would not keep step."""
        mine = [(dataset.image_ids, dataset.num_objects) for dataset in (self.train_set, self.val_set)]
        digests = distributed.gather(hashlib.sha256(repr(mine).encode()).hexdigest())
        for rank, digest in enumerate(digests):
            if digest != digests[0]:
                message = f"rank {rank} has other images or objects than rank 0: is a copy incomplete?"
                raise distributed.SetupError(message)

    def _open_files(self) -> None:
        for handler in list(_LOG.handlers):
            _LOG.removeHandler(handler)
            handler.close()
        self.metrics = MetricsLog(self.out / "metrics.jsonl" if self.main else None)
        self.out.mkdir(parents=True, exist_ok=True)
        if self.main:
            tidy(self.out)
            handler = logging.FileHandler(self.out / "log.txt")
        else:  # what only this rank has met: a broken image of its share, an error's traceback
            handler = logging.FileHandler(self.out / f"log_rank{distributed.rank()}.txt", delay=True)
            handler.setLevel(logging.WARNING)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        _LOG.addHandler(handler)
        _LOG.setLevel(logging.INFO)

    def _build(self) -> None:
        config, schedule = self.config, self.config.schedule
        ranks = distributed.world_size()
        if schedule.batch_size < ranks * schedule.accumulate:
            raise ValueError(
                f"schedule.batch_size must give each of {ranks} processes x {schedule.accumulate} parts an image, got "
                f"{schedule.batch_size}"
            )
        seeding.seed_everything(config.run.seed)
        require_objects(self.train_set)
        self.loader = build_loader(
            self.train_set,
            schedule.batch_size,
            shuffle=True,
            num_workers=config.data.workers,
            seed=config.run.seed,
            rank=distributed.rank(),
            world_size=ranks,
            pin_memory=self.device.type == "cuda",
        )
        self.model = build_model(config, self.train_set.num_classes).to(self.device)
        precision.prepare(self.model, config.run)
        self.stepper = Stepper(self.model, config, len(self.loader), self.device)
        self.watch = None
        if self.main:
            if config.run.tensorboard:
                self.watch = Watch(self.out / "tensorboard", self.train_set.category_names)
            config.save(self.out / "config.json")

    @property
    def total_iterations(self) -> int:
        return self.config.schedule.epochs * len(self.loader)

    def resume(self, source: Path | str, allowed: tuple[str, ...] = ()) -> Path | None:
        """Goes on from a checkpoint, or for "auto" from the newest usable one in the run's folder, None without one.

        Any number of ranks may go on with a run, not only the one it was begun with. Rank 0 reads the file.

        Args:
            allowed: settings that may differ from the run's (see
                :func:`mlc_ext.detectors.runs.checkpoint.check_unchanged`).

        Raises:
            FileNotFoundError, ValueError: no such file, damaged, foreign, or of a run with other data or settings.
        """
        found = None
        with distributed.together():
            if self.main:
                found = load_newest(self.out, self._tell) if source == "auto" else (source, load_checkpoint(source))
        found = distributed.broadcast(found)
        if found is None:
            return None
        path, state = Path(found[0]).resolve(), found[1]
        with distributed.together():
            self._check(path, state, allowed)
            with as_misfit(path):
                self.stepper.load_state_dict(state)
                self.loader.load_state_dict(state["loader"])
        self.iteration, self.metrics.entries = state["iteration"], state["history"]
        self._resumed_from = path
        self._saved_at = self.iteration if path == self.out.resolve() / NAME else None
        return path

    def _check(self, path: Path, state: dict, allowed: tuple[str, ...]) -> None:
        require_trained(self.train_set, state, path)
        if "optimizer" not in state:
            raise ValueError(f"{path} holds no optimizer state to resume from")
        check_unchanged(path, state, self.config, allowed)
        for name, version in VERSIONS.items():
            if state[name] != version:
                self._tell(f"{path} was written by {name} {state[name]}, this is {version}: bits may differ")

    def _tell(self, message: str) -> None:
        if self.main:
            _LOG.warning("%s", message)
            print(message, file=sys.stderr)

    def save(self) -> Path:
        """Writes checkpoint.pt (rank 0), keeping those before it; NonFiniteLoss instead after a bad step."""
        self._check_finite()
        path = self.out / NAME
        if self.main:
            place = {"epoch": self.iteration // len(self.loader), "position": self.iteration % len(self.loader)}
            state = {
                **self.stepper.state_dict(),
                "config": self.config.to_dict(),
                "num_classes": self.train_set.num_classes,
                "categories": self.train_set.category_names,
                "category_ids": list(self.train_set.label_to_category.values()),
                "iteration": self.iteration,
                "history": self.metrics.entries,
                "loader": self.loader.state_dict() | place,  # batches may be out whose step never came
            }
            again = self._saved_at == self.iteration  # the same weights with an evaluation more
            save_checkpoint(path, state, keep=None if again else self.config.run.keep_checkpoints)
        self._saved_at = self.iteration
        return path

    def run(self, until: int | None = None) -> dict[str, float]:
        """Trains to the end, evaluates and returns the metrics.

        With ``until`` it stops at that iteration instead, with a checkpoint, evaluates nothing and returns {}: other
        runs may go on from there.

        Ctrl-C and SIGTERM (a scheduler's end of time) end the step in progress, save a checkpoint and raise
        KeyboardInterrupt; a second one raises it at once and saves nothing, as half a step may have been taken.

        Raises:
            NonFiniteLoss: the weights were frozen and no checkpoint was written since. LostPeer: another rank is gone.
        """
        if self.main and (self._resumed_from is None or self._resumed_from.parent != self.out.resolve()):
            set_aside(self.out)
        self.metrics.start()
        _LOG.info("%s", self.train_set.summary())
        count = sum(p.numel() for p in self.model.parameters())
        _LOG.info("%d parameters, %d iterations on %d x %s from %d", count, self.total_iterations,
                  distributed.world_size(), self.device, self.iteration)  # fmt: skip
        bar = tqdm(total=self.total_iterations, initial=self.iteration, disable=not self.progress, unit="it",
                   dynamic_ncols=True, mininterval=0.5)  # fmt: skip
        watch = contextlib.closing(self.watch) if self.watch else contextlib.nullcontext()
        with Interruption() as self._interruption, contextlib.closing(bar), watch:
            try:
                return self._train(bar, self.total_iterations if until is None else until)
            except KeyboardInterrupt:
                bar.close()
                _LOG.info("interrupted at iteration %d", self.iteration)
                if not self._interruption.deferring:
                    self._save_and_tell("interrupted")
                raise
            except RuntimeError as error:
                if not distributed.is_lost_peer(error):
                    raise
                bar.close()
                _LOG.error("lost another process: %s", error)
                if self.stepper.undo():
                    self._save_and_tell("another process of this run is gone")
                raise distributed.LostPeer("another process of this run is gone; --resume auto goes on") from error

    def _train(self, bar: tqdm, until: int) -> dict[str, float]:
        while self.iteration < min(until, self.total_iterations):
            if self._evaluation_is_due():  # also after a resume in the place of the one that was cut off
                self._evaluate()
                self.save()
            self._epoch(bar, until)
        self.save()
        if until < self.total_iterations:
            return {}
        metrics = self._evaluate()
        self.save()
        return metrics

    def _evaluation_is_due(self) -> bool:
        """At the end of every ``run.eval_every``-th epoch, once."""
        epoch, inside = divmod(self.iteration, len(self.loader))
        every = self.config.run.eval_every
        if not every or inside or epoch == 0 or epoch % every:
            return False
        return not any("metrics" in entry and entry["iteration"] == self.iteration for entry in self.metrics.entries)

    def _save_and_tell(self, why: str) -> None:
        path = self.save()
        if self.main:
            place = f"iteration {self.iteration} of {self.total_iterations}"
            print(f"{why}: {path} holds {place}", file=sys.stderr)

    def _epoch(self, bar: tqdm, until: int) -> None:
        """The rest of the current epoch, at most to iteration ``until``."""
        run, length = self.config.run, len(self.loader)
        self.loader.set_epoch(self.iteration // length)
        self.model.train()
        self._open_window()
        self._interruption.deferring = True  # from a batch's loading to its step: one place in data and weights
        for images, targets in self.loader:
            self._seen += self.loader.batch_length(self.iteration % len(self.loader))
            for name, value in self.step(images, targets).items():
                self._window.setdefault(name, []).append(value)
            bar.update()
            last = self.iteration % length == 0
            if last or self.iteration % run.log_every == 0:
                self._log(bar)
            if self.watch and last:
                self.watch.log_images(self.iteration, self.model, images, targets)
            if run.save_every is not None and self.iteration % run.save_every == 0:
                self.save()
            self._interruption.check(last=last)
            if self.iteration == until:
                break
        self._interruption.deferring = False

    def _open_window(self) -> None:
        """Begins to gather for the next log entry."""
        self._began, self._seen, self._window_start = time.perf_counter(), 0, self.iteration
        self._window: dict[str, list[Tensor]] = {}

    def step(self, images: list[Tensor], targets: list[dict]) -> dict[str, Tensor]:
        """One iteration; the losses are left on the device, so nothing waits for it."""
        length = self.loader.batch_length(self.iteration % len(self.loader))
        losses = self.stepper.take(self.iteration, images, targets, length)
        self.iteration += 1
        return losses

    def _log(self, bar: tqdm) -> None:
        """Writes the means since the last entry; here, and only here, the losses are fetched."""
        means = distributed.mean(torch.stack([torch.stack(values).mean() for values in self._window.values()]))
        *values, first_bad = torch.cat([means.double(), self.stepper.guard.first_bad.double()[None]]).tolist()
        if first_bad >= 0:
            raise self._non_finite(int(first_bad))
        means = dict(zip(self._window, values, strict=True))
        entry = {
            "iteration": self.iteration,
            "epoch": self.iteration / len(self.loader),
            "lr": self.stepper.optimizer.param_groups[0]["lr"],
            "mutual": self.model.mutual,
            "images_per_second": self._seen / (time.perf_counter() - self._began),
            **means,
        }
        if self.stepper.scaler.is_enabled():
            entry["loss_scale"] = self.stepper.scaler.get_scale()
        if self.device.type == "cuda":
            entry["peak_memory_mib"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        self.metrics.add(entry)
        if self.watch:
            self.watch.log_scalars(self.iteration, {key: entry[key] for key in entry if key != "iteration"})
        shown = {short: f"{means[name]:.3f}" for name, short in SHORT_NAMES.items() if name in means}
        bar.set_description(f"epoch {entry['epoch']:.1f}{' ML' if entry['mutual'] else ''}")
        bar.set_postfix(**shown, ips=f"{entry['images_per_second']:.1f}")
        _LOG.info("%s", " ".join(f"{name} {value:.4g}" for name, value in entry.items()))
        self._open_window()

    def _check_finite(self) -> None:
        first_bad = int(self.stepper.guard.first_bad.item())
        if first_bad >= 0:
            raise self._non_finite(first_bad)

    def _non_finite(self, first_bad: int) -> NonFiniteLoss:
        """The error of a step since the last log entry, its batch loaded again and saved."""
        losses = {name: values[first_bad - self._window_start].item() for name, values in self._window.items()}
        losses.pop("grad_norm")
        batch = self.loader.load(first_bad % len(self.loader))
        error = describe(self.out, first_bad + 1, losses, batch, self.model.state_dict())
        _LOG.error("%s", error)
        return error

    def _label_statistics(self, model: DenseDetector) -> dict[str, float]:
        """Rank 0 counts, the others wait: the images are few."""
        found = None
        if self.main:
            batches = build_loader(
                Subset(self.val_set, range(min(self.config.run.label_images, len(self.val_set)))),
                rank_batch(self.config),
                shuffle=False,
            )
            found = label_statistics(model, batches, self.device)
        return distributed.broadcast(found)

    def _evaluate(self) -> dict[str, float]:
        model = self.model if self.stepper.average is None else self.stepper.average.model
        model.set_epoch(self.iteration / len(self.loader))
        distributed.share_buffers(model)
        metrics = evaluate(
            model,
            self.val_set,
            batch_size=rank_batch(self.config),
            device=self.device,
            workers=self.config.data.workers,
            correlation=self.config.run.correlation,
            backend=self.config.data.evaluator,
            results=self.out / "results.json" if self.config.run.results else None,
            progress=self.progress,
        )
        if self.config.run.label_images is not None:
            metrics |= self._label_statistics(model)
        self.metrics.add({"iteration": self.iteration, "metrics": metrics})
        if self.watch:
            self.watch.log_scalars(self.iteration, metrics, "evaluation")
        _LOG.info("evaluation at iteration %d: %s", self.iteration, metrics)
        if self.main:
            result = {"iteration": self.iteration, "metrics": metrics, "history": self.metrics.entries}
            write_whole(self.out / "metrics.json", json.dumps(plain(result), indent=1) + "\n")
        return metrics
