"""The best evaluation of a run by a metric, its checkpoint best.pt, and the end of a training without a better one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config.sections.run import PROPOSAL_METRICS
from ..config.settings import Config
from .checkpoint import BEST, load_checkpoint, save_checkpoint, set_best_aside
from .log_file import LOG


class Evaluation(NamedTuple):
    """An evaluation's metric; larger is better, NaN where it is undefined."""

    iteration: int
    value: float


def evaluations(history: Sequence[dict[str, Any]], metric: str) -> list[Evaluation]:
    """The evaluations among a run's history; the last one of each iteration."""
    found = {entry["iteration"]: entry["metrics"].get(metric) for entry in history if "metrics" in entry}
    return [Evaluation(iteration, math.nan if value is None else value) for iteration, value in found.items()]


def best_of(found: Sequence[Evaluation]) -> Evaluation | None:
    """The first of the best evaluations; None if the metric is defined in none."""
    return max((each for each in found if not math.isnan(each.value)), key=lambda each: each.value, default=None)


def without_improvement(found: Sequence[Evaluation], start: float = 0) -> int:
    """Number of evaluations after the best one and after iteration ``start``; 0 if the metric is defined in none."""
    best = best_of(found)
    return 0 if best is None else sum(each.iteration > max(best.iteration, start) for each in found)


class BestCheckpoint:
    """best.pt in a run's folder: the checkpoint of the best evaluation by ``run.best_metric``, if that is not None.

    What is best is decided by the run's history, which its checkpoints contain: a resumed run continues. Rank 0 alone
    writes.

    Raises ValueError if the detector is not evaluated by the metric, or ``run.patience`` cannot be followed.
    """

    def __init__(self, config: Config) -> None:
        run = config.run
        self.path, self.metric, self.patience = Path(run.out) / BEST, run.best_metric, run.patience
        starts = config.mlc.starts().values()
        self._start = max((start for start in starts if start < config.schedule.epochs), default=0)
        if self.metric is not None and (self.metric in PROPOSAL_METRICS) != config.model.class_agnostic:
            kind = f"model.detector={config.model.detector!r}"
            raise ValueError(f"run.best_metric={self.metric} is no metric that {kind} is evaluated by")
        if self.patience is not None:
            for name in ("best_metric", "eval_every"):
                if getattr(run, name) is None:
                    raise ValueError(f"run.patience={self.patience} needs run.{name}, got None")

    def begin(self, history: Sequence[dict[str, Any]], resumed_from: Path | None) -> None:
        """At the start of a run. A best.pt that is not of the best evaluation so far is moved to ``earlier/``; that of
        the best one is copied from the folder of the checkpoint that the run resumes from, or is that checkpoint."""
        best = self._best(history)
        if best is None or resumed_from is None:
            set_best_aside(self.path.parent)
            return
        for path in (self.path, resumed_from.with_name(BEST), resumed_from):
            state = _read(path)
            if state is not None and state["iteration"] == best.iteration:
                if path != self.path:
                    if (own := _read(self.path)) is not None and own["iteration"] > best.iteration:
                        set_best_aside(self.path.parent)  # of steps after the one that the run goes back to
                    save_checkpoint(self.path, {key: state[key] for key in state if key != "format"})
                return
        set_best_aside(self.path.parent)
        LOG.warning("the checkpoint of the best evaluation (%s) is gone: %s is written at the next better one",
                    self._text(best), self.path)  # fmt: skip

    def save(self, history: Sequence[dict[str, Any]], state: dict) -> None:
        """Writes ``state`` to best.pt if the last evaluation of the history, of that state, is the best."""
        if self.metric is None:
            return
        best = self._best(history)
        if best is None and len(evaluations(history, self.metric)) == 1:
            LOG.warning("run.best_metric=%s is undefined: the validation images have no object that it counts",
                        self.metric)  # fmt: skip
        if best is not None and best.iteration == state["iteration"]:
            save_checkpoint(self.path, state)
            LOG.info("best evaluation so far (%s): written to %s", self._text(best), self.path)

    def ends(self, history: Sequence[dict[str, Any]], iterations_per_epoch: int) -> bool:
        """Whether the last ``run.patience`` evaluations were no better than one before them.

        Evaluations before all parts of the method have started do not count: else the run could end without them.
        """
        if self.metric is None or self.patience is None:
            return False
        found = evaluations(history, self.metric)
        return without_improvement(found, self._start * iterations_per_epoch) >= self.patience

    def ending(self, history: Sequence[dict[str, Any]]) -> str | None:
        """Names the best evaluation and its file; None without an evaluation."""
        best = self._best(history)
        if best is None:
            undefined = self.metric is not None and evaluations(history, self.metric)
            return f"no best evaluation: {self.metric} is undefined on the validation images" if undefined else None
        return f"best evaluation: {self._text(best)}" + (f", in {self.path}" if self.path.is_file() else "")

    def _best(self, history: Sequence[dict[str, Any]]) -> Evaluation | None:
        return None if self.metric is None else best_of(evaluations(history, self.metric))

    def _text(self, best: Evaluation) -> str:
        return f"{self.metric} {100 * best.value:.1f} at iteration {best.iteration}"


def _read(path: Path) -> dict | None:
    """The state of a checkpoint; None if there is none, or a damaged one."""
    try:
        return load_checkpoint(path)
    except (FileNotFoundError, ValueError):
        return None
