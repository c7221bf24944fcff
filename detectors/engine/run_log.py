"""What a run reports while it trains: log entries, the progress bar, TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from mlc_ext.losses import reduce_mean

from ..models.targets import Target
from ..runs.log_file import LOG
from ..runs.metrics_log import SHORT_NAMES, MetricsLog
from ..visualization.tensorboard import Watch
from .train_step import Stepper


class RunLog:
    """Gathers the losses of the steps on the device and writes their means as log entries.

    A context manager: it shows the progress bar and closes the TensorBoard file.

    Args:
        metrics: receives the entries.
        stepper: its learning rate, loss scale and model are logged.
        watch: TensorBoard, or None.
        iterations: of the whole run.
        progress: whether the bar is shown.
    """

    def __init__(
        self, metrics: MetricsLog, stepper: Stepper, watch: Watch | None, iterations: int, *, progress: bool
    ) -> None:
        self.metrics, self.stepper, self.watch = metrics, stepper, watch
        self.iterations, self.progress = iterations, progress
        self.begin_window(0)

    def start(self, iteration: int) -> None:
        """Shows the progress bar, from ``iteration`` on."""
        self.bar = tqdm(total=self.iterations, initial=iteration, disable=not self.progress, unit="it",
                        dynamic_ncols=True, mininterval=0.5)  # fmt: skip

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self.watch is not None:
            self.watch.close()
        self.bar.close()

    def begin_window(self, iteration: int) -> None:
        """Begins to gather losses for the next entry, which starts after ``iteration`` steps."""
        self._began, self._seen, self._window_start = time.perf_counter(), 0, iteration
        self._window: dict[str, list[Tensor]] = {}

    def add(self, losses: dict[str, Tensor], images: int) -> None:
        """Takes in the losses of a step on ``images`` images; they stay on the device."""
        self._seen += images
        for name, value in losses.items():
            self._window.setdefault(name, []).append(value)
        self.bar.update()

    def losses_of(self, step: int) -> dict[str, float]:
        """This rank's losses of a step (0, 1, ...) since the last entry."""
        losses = {name: values[step - self._window_start].item() for name, values in self._window.items()}
        losses.pop("grad_norm")
        return losses

    def means(self) -> tuple[dict[str, float], int]:
        """-> (the means of the losses since the last entry, over all ranks; the first bad step or -1).

        One transfer, the only one of training: the host waits for the device here.
        """
        means = reduce_mean(torch.stack([torch.stack(values).mean() for values in self._window.values()]))
        *values, first_bad = torch.cat([means.double(), self.stepper.guard.first_bad.double()[None]]).tolist()
        return dict(zip(self._window, values, strict=True)), int(first_bad)

    def write(self, iteration: int, means: dict[str, float]) -> None:
        """Writes a log entry and begins the next one."""
        stepper = self.stepper
        entry = {
            "iteration": iteration,
            "epoch": iteration / stepper.iterations_per_epoch,
            "lr": stepper.optimizer.param_groups[0]["lr"],
            "mutual": stepper.model.mutual,
            "images_per_second": self._seen / (time.perf_counter() - self._began),
            **means,
        }
        if stepper.scaler.is_enabled():
            entry["loss_scale"] = stepper.scaler.get_scale()
        if stepper.device.type == "cuda":
            entry["peak_memory_mib"] = torch.cuda.max_memory_allocated(stepper.device) / 2**20
        self.metrics.add(entry)
        if self.watch is not None:
            self.watch.log_scalars(iteration, {key: entry[key] for key in entry if key != "iteration"})
        shown = {short: f"{means[name]:.3f}" for name, short in SHORT_NAMES.items() if name in means}
        self.bar.set_description(f"epoch {entry['epoch']:.1f}{' ML' if entry['mutual'] else ''}")
        self.bar.set_postfix(**shown, ips=f"{entry['images_per_second']:.1f}")
        LOG.info("%s", " ".join(f"{name} {value:.4g}" for name, value in entry.items()))
        self.begin_window(iteration)

    def images(self, iteration: int, images: Sequence[Tensor], targets: Sequence[Target]) -> None:
        """Shows the first images of a batch in TensorBoard."""
        if self.watch is not None:
            self.watch.log_images(iteration, self.stepper.model, images, targets)

    def evaluation(self, iteration: int, metrics: dict[str, float]) -> None:
        """Writes the metrics of an evaluation."""
        self.metrics.add({"iteration": iteration, "metrics": metrics})
        if self.watch is not None:
            self.watch.log_scalars(iteration, metrics, "evaluation")
        LOG.info("evaluation at iteration %d: %s", iteration, metrics)
