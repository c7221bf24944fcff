"""Training: the objects of a run and the loop over epochs and batches."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from .. import distributed
from ..config.paths import with_absolute_paths
from ..config.settings import Config
from ..data.build import (
    CACHE,
    build_datasets,
    build_training_loader,
    check_same_data,
    log_warnings,
    require_objects,
    verify,
)
from ..data.coco.dataset import CocoDetection
from ..data.coco.trained import require_trained
from ..initialization.initialize import weights_from_init
from ..models.build import build_model
from ..runs.best import BestCheckpoint
from ..runs.checkpoint import NAME, as_misfit
from ..runs.folder import RunFolder
from ..runs.log_file import LOG
from ..runs.metrics_log import MetricsLog
from ..visualization.tensorboard import Watch
from . import precision, seeding
from .nonfinite import describe
from .optim import check_schedule
from .run_log import RunLog
from .signals import Interruption
from .train_step import Stepper
from .validation import validate

Datasets = tuple[CocoDetection, CocoDetection]
"""The training and the validation set."""


class Trainer:
    """One run: builds everything from the configuration, trains, evaluates, and writes the files of a
    :class:`~mlc_ext.detectors.runs.folder.RunFolder` to ``config.run.out``.

    With several ranks (detectors.distributed) every rank makes one; rank 0 alone writes and prints.

    Args:
        progress: whether progress bars are shown.
        datasets: those of a trainer whose ``config.data`` and ``model.class_agnostic`` are the same, to use instead of
            reading and verifying them again.
    """

    def __init__(
        self,
        config: Config,
        *,
        progress: bool = True,
        datasets: Datasets | None = None,
    ) -> None:
        self.config = config
        self.main = distributed.is_main()
        self.progress = progress and self.main
        self.iteration = 0
        self.ended_early: str | None = None
        self._started = config.model.init is None
        self.folder = RunFolder(config.run.out)
        with distributed.together():
            self.best = BestCheckpoint(config)
            check_schedule(config)
            self.folder.open()
            precision.configure(config.run)
            self.device = distributed.pick_device(config.run.device)
            if datasets is None:
                self.train_set, self.val_set = build_datasets(config, CACHE, progress=self.progress)
            else:
                self.train_set, self.val_set = datasets
                log_warnings(*datasets, again=True)  # each run's log has them
        if datasets is None:
            check_same_data(*self.datasets)
            verify(config, *self.datasets, progress=self.progress)
        with distributed.together():
            seeding.seed_everything(config.run.seed)
            require_objects(self.train_set)
            self.loader = build_training_loader(config, self.train_set, self.device)
            self.model = build_model(config, self.train_set.num_classes).to(self.device)
            precision.prepare(self.model, config.run)
            self.stepper = Stepper(self.model, config, len(self.loader), self.device)
            self.metrics = MetricsLog(self.folder.path / "metrics.jsonl" if self.main else None)
            watch = None
            if self.main and config.run.tensorboard:
                watch = Watch(self.folder.path / "tensorboard", self.train_set.category_names)
            self.log = RunLog(self.metrics, self.stepper, watch, self.total_iterations, progress=self.progress)
        self.stepper.connect()

    @property
    def datasets(self) -> Datasets:
        return self.train_set, self.val_set

    @property
    def total_iterations(self) -> int:
        return self.config.schedule.epochs * len(self.loader)

    def run(self, until: int | None = None) -> dict[str, float]:
        """Trains to the end, evaluates and returns the metrics; with ``run.patience`` it may end before, and returns
        those of the last evaluation.

        With ``until`` it stops at that iteration instead, saves a checkpoint that other runs may resume from,
        evaluates nothing and returns {}.

        Ctrl-C and SIGTERM (the time limit of a scheduler) take effect at the end of the step in progress: a checkpoint
        is saved and KeyboardInterrupt is raised. A second signal raises it at once and saves nothing, because half a
        step may have been taken. A checkpoint is also saved when an error is raised while a batch is waited for.

        Raises:
            NonFiniteLoss: the weights were frozen at the bad step; no checkpoint was written since.
            LostPeer: another rank is gone.
        """
        self._begin()
        stop = self.total_iterations if until is None else min(until, self.total_iterations)
        with (
            contextlib.closing(self.folder),
            Interruption() as interruption,
            self.log,
            self._saved_on_failure(interruption),
        ):
            if self.folder.continues_another:
                self.save()  # what fails before the next checkpoint continues from here
            while self.iteration < stop:
                if self._evaluation_is_due():  # also after resuming from a checkpoint saved just before it
                    self.save()  # an evaluation that fails loses no step
                    self._evaluate_and_save()
                if self.best.ends(self.metrics.entries, len(self.loader)):
                    return self._end_early()
                self.train_one_epoch(interruption, stop)
            self.save()
            if stop < self.total_iterations:
                return {}
            return self._evaluate_and_save()

    def train_one_epoch(self, interruption: Interruption, stop: int) -> None:
        """Trains from the current iteration to the end of its epoch, or to iteration ``stop``."""
        run, length = self.config.run, len(self.loader)
        self.loader.set_epoch(self.iteration // length)
        self.model.train()
        self.log.begin_window(self.iteration)
        interruption.deferring = True  # within a step: a checkpoint has a whole number of them
        for images, targets in interruption.waiting_for(self.loader):
            batch_size = self.loader.batch_length(self.iteration % length)  # over all ranks
            losses = self.stepper.step(self.iteration, images, targets, batch_size)
            self.iteration += 1
            self.log.add(losses, batch_size)
            last = self.iteration % length == 0
            if last or self.iteration % run.log_every == 0:
                means, first_bad = self.log.means()
                self._stop_if_bad(first_bad)
                self.log.write(self.iteration, means)
            if last:
                self.log.images(self.iteration, images, targets)
                self._log_cut()
            if run.save_every is not None and self.iteration % run.save_every == 0:
                self.save()
            interruption.check(last=last)
            if self.iteration == stop:
                break
        interruption.deferring = False

    def evaluate(self) -> dict[str, float]:
        """Evaluates the weights, or their averages (``schedule.ema``), and writes metrics.json."""
        model = self.model if self.stepper.average is None else self.stepper.average.model
        model.set_epoch(self.iteration / len(self.loader))
        metrics = validate(self.config, model, self.val_set, self.device, self.folder.path, progress=self.progress)
        self.log.evaluation(self.iteration, metrics)
        if self.main:
            self.folder.save_metrics(self.iteration, metrics, self.metrics.entries)
        return metrics

    def _evaluate_and_save(self) -> dict[str, float]:
        metrics = self.evaluate()
        self.save()
        if self.main:  # after checkpoint.pt: a resumed run that finds no best.pt of its history takes that
            self.best.save(self.metrics.entries, self._state())
        return metrics

    def save(self) -> None:
        """Writes checkpoint.pt on rank 0 and keeps older ones. NonFiniteLoss, and no file, after a bad step."""
        self._stop_if_bad(self.stepper.guard.first_bad_step())
        if self.main:
            self.folder.save(self._state(), self.config.run.keep_checkpoints)

    def _state(self) -> dict:
        """The content of a checkpoint."""
        # the loader may have handed out batches whose step was never taken
        place = {"epoch": self.iteration // len(self.loader), "position": self.iteration % len(self.loader)}
        return {
            **self.stepper.state_dict(),
            "config": with_absolute_paths(self.config).to_dict(),
            "num_classes": self.train_set.num_classes,
            "categories": self.train_set.category_names,
            "category_ids": list(self.train_set.label_to_category.values()),
            "iteration": self.iteration,
            "history": self.metrics.entries,
            "loader": self.loader.state_dict() | place,
        }

    def resume(self, source: Path | str, allowed: tuple[str, ...] = ()) -> Path | None:
        """Continues from a checkpoint, which is returned. "auto" is the newest usable one in the run's folder, None
        if there is none.

        A run may be resumed on any number of ranks, whatever number it was started on.

        Args:
            allowed: settings that may differ from the run's (see
                :func:`mlc_ext.detectors.runs.checkpoint.check_unchanged`).

        Raises:
            FileNotFoundError: no such file.
            ValueError: damaged, not a checkpoint of this project, or of a run with other data or settings.
        """
        found = self.folder.find(source)
        if found is None:
            return None
        path, state = found
        with distributed.together():
            require_trained(self.train_set, state, path)
            self.folder.check(path, state, self.config, allowed)
            with as_misfit(path):
                self.stepper.load_state_dict(state)
                self.loader.load_state_dict(state["loader"])
        self.iteration, self.metrics.entries = state["iteration"], state["history"]
        self._started = True
        self.folder.resumed(path, self.iteration)
        return path

    def _log_cut(self) -> None:
        """Logs how many boxes the crops and mosaics of an epoch have removed or hidden."""
        if self.loader.cut:
            where = "" if distributed.world_size() == 1 else ", in this process's share of the images"
            LOG.info("%d boxes removed or ignored in the crops and mosaics of this epoch%s", self.loader.cut, where)

    def start_from_init(self) -> str | None:
        """Starts from the detector of ``model.init`` and returns the table of what was taken; :meth:`run` does too.

        None if there is nothing to do: no such setting, or the run has started or was resumed. Errors as for
        :func:`weights_from_init`.
        """
        if self._started:
            return None
        tensors, table = weights_from_init(self.config.model, self.model, self.train_set.category_names)
        self.stepper.start_from(tensors)
        self._started = True
        LOG.info("%s", table)
        return table

    def _begin(self) -> None:
        self.start_from_init()
        self.folder.begin(self.config)
        if self.main:
            self.best.begin(self.metrics.entries, self.folder.resumed_from)
        self._had_ended = self.best.ends(self.metrics.entries, len(self.loader))
        self.metrics.start()
        self.log.start(self.iteration)
        LOG.info("%s", self.train_set.summary())
        count = sum(p.numel() for p in self.model.parameters())
        LOG.info("%d parameters, %d iterations on %d x %s from %d", count, self.total_iterations,
                 distributed.world_size(), self.device, self.iteration)  # fmt: skip

    def _end_early(self) -> dict[str, float]:
        """Reports that the training ends by ``run.patience`` -> the metrics of the last evaluation."""
        what = "not trained on, the run had ended" if self._had_ended else "ended early"
        self.ended_early = (
            f"{what} at iteration {self.iteration} of {self.total_iterations}: no better {self.best.metric} in "
            f"{self.best.patience} evaluations (run.patience)"
        )
        LOG.info("%s", self.ended_early)
        return [entry["metrics"] for entry in self.metrics.entries if "metrics" in entry][-1]

    def ending(self) -> list[str]:
        """After :meth:`run`: why it ended early, if it did, and which evaluation was the best, each in a line."""
        return [line for line in (self.ended_early, self.best.ending(self.metrics.entries)) if line is not None]

    def _evaluation_is_due(self) -> bool:
        """At the end of every ``run.eval_every``-th epoch, once."""
        epoch, inside = divmod(self.iteration, len(self.loader))
        every = self.config.run.eval_every
        if not every or inside or epoch == 0 or epoch % every:
            return False
        return not any("metrics" in entry and entry["iteration"] == self.iteration for entry in self.metrics.entries)

    def _stop_if_bad(self, first_bad: int) -> None:
        """NonFiniteLoss if a step since the last log entry was bad (-1: none); its batch is loaded again and saved."""
        if first_bad < 0:
            return
        losses, batch = self.log.losses_of(first_bad), self.loader.load(first_bad % len(self.loader))
        error = describe(self.folder.path, first_bad + 1, losses, batch, self.model.state_dict())
        LOG.error("%s", error)
        raise error

    @contextlib.contextmanager
    def _saved_on_failure(self, interruption: Interruption) -> Iterator[None]:
        """Saves a checkpoint when the run is interrupted or gets no batch between two steps, or loses another rank."""
        began = self.iteration
        try:
            yield
        except KeyboardInterrupt:
            self.log.bar.close()
            LOG.info("interrupted at iteration %d", self.iteration)
            if not interruption.deferring:
                self._save_after("interrupted")
            raise
        except Exception as error:
            if not distributed.is_lost_peer(error):
                if interruption.wait_failed and self.iteration > began:
                    self.log.bar.close()
                    self._save_after("no batch could be loaded")
                raise
            self.log.bar.close()
            LOG.error("lost another process: %s", error)
            if self.stepper.undo():
                self._save_after("another process of this run is gone")
            raise distributed.LostPeer("another process of this run is gone; --resume auto continues it") from error

    def _save_after(self, failure: str) -> None:
        self.save()
        if self.main:
            place = f"iteration {self.iteration} of {self.total_iterations}"
            print(f"{failure}: {self.folder.path / NAME} holds {place}", file=sys.stderr)
