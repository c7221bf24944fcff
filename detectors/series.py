"""The runs of one command of train.py: several seeds, and the baseline beside the method."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from .command_line import command, say
from .config.overrides import differences, override
from .config.paths import with_absolute_paths
from .config.settings import Config
from .engine.optim import first_iteration
from .engine.trainer import Datasets, Trainer
from .evaluation.metrics_table import report
from .runs.checkpoint import NAME
from .runs.files import ENCODING

_SEED = ", seed "
"""Between a run's kind and its seed, in names."""
_BASELINE = "baseline"
"""Kind of the run that --compare trains beside each run of the method."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A run, or a part of it."""

    name: str
    config: Config
    resume: str | None = None
    """The checkpoint that it continues from; "auto": the newest in its folder."""
    allowed: tuple[str, ...] = ()
    """Settings in which that checkpoint's run may differ."""
    until: float | None = None
    """The epoch at which it stops; None: the end."""
    goes_on: bool = False
    """Whether it continues what this command has begun."""

    @property
    def title(self) -> str:
        """The run and its folder, with the part that is trained."""
        continued = ", continued" if self.goes_on and self.resume == "auto" else ""
        part = continued if self.until is None else " until the method starts"
        return f"{self.name}{part}: {self.config.run.out}"


def runs_of(config: Config, *, compare: bool, seeds: int) -> dict[str, Config]:
    """The runs by name, in the order of the printed table. Several have folders of their own in ``run.out``.

    Args:
        compare: whether the baseline is trained too.
        seeds: number of seeds, from ``run.seed`` on.
    """
    kinds = {_name(config): config}
    if compare:
        kinds = {_BASELINE: _baseline_of(config), **kinds}
    if seeds > 1:
        kinds = {
            f"{name}{_SEED}{seed}": override(each, "run.seed", seed)
            for seed in range(config.run.seed, config.run.seed + seeds)
            for name, each in kinds.items()
        }
    if len(kinds) == 1:
        return kinds
    return {
        name: override(each, "run.out", str(Path(config.run.out, *reversed(name.replace(" ", "").split(",")))))
        for name, each in kinds.items()
    }


def by_seed(results: dict[str, dict[str, float]]) -> dict[str, list[dict[str, float]]]:
    """The metrics of each kind of run, seed by seed."""
    kinds: dict[str, list[dict[str, float]]] = {}
    for name, metrics in results.items():
        kinds.setdefault(name.partition(_SEED)[0], []).append(metrics)
    return kinds


def train_all(
    runs: dict[str, Config],
    prog: str,
    begun: list[str],
    resume: str | None = None,
    allowed: tuple[str, ...] = (),
    *,
    progress: bool = True,
) -> dict[str, dict[str, float]]:
    """Trains the runs of :func:`runs_of` and returns the metrics of each, in their order. If one of several fails, the
    results of the finished ones are printed, and how to continue.

    Args:
        prog: the name that the program was called by.
        begun: of several runs, the names of those that are started are appended.
        resume, allowed: of the only run; see :meth:`Trainer.resume`.
        progress: whether progress bars are shown.
    """
    results: dict[str, dict[str, float]] = {}
    stages = stages_of(runs) if resume is None else [Stage(name, each, resume, allowed) for name, each in runs.items()]
    datasets: Datasets | None = None  # the same for all runs
    try:
        for stage in stages:
            if len(runs) > 1:
                begun.append(stage.name)
            metrics, datasets = _train(stage, datasets, progress)
            if stage.until is None:
                results[stage.name] = metrics
    except BaseException:  # after Ctrl-C too
        if begun:
            say(_unfinished(prog, runs, results, begun))
        raise
    return _in_order(runs, results)


def stages_of(runs: dict[str, Config]) -> list[Stage]:
    """What is trained, in order. What a baseline and the run of the method after it have in common is trained once."""
    stages: list[Stage] = []
    baseline: Stage | None = None
    for name, config in runs.items():
        if name.partition(_SEED)[0] == _BASELINE:
            baseline = Stage(name, config)
            continue
        start = _shared_epochs(config)
        if baseline is None or not start:
            stages += [Stage(name, config)] if baseline is None else [baseline, Stage(name, config)]
            continue
        first = baseline.config
        stages += [
            dataclasses.replace(baseline, until=start),
            Stage(name, config, str(Path(first.run.out, NAME)), tuple(differences(first, config)), goes_on=True),
            dataclasses.replace(baseline, resume="auto", goes_on=True),
        ]
    return stages


def _shared_epochs(method: Config) -> float:
    """The epochs until which a run is the same as its baseline; 0: it is another from the start, or never."""
    if method.mlc.alignment or method.model.init is not None:  # a loss without a start; a file with an IoU layer
        return 0.0
    start = min(method.mlc.starts().values(), default=0.0)
    return start if start < method.schedule.epochs else 0.0


def _baseline_of(config: Config) -> Config:
    """The same run without the method."""
    mlc = dataclasses.replace(config.mlc, ml=False, iur=False, alignment=0.0)
    return dataclasses.replace(config, mlc=mlc, model=dataclasses.replace(config.model, nms="rescored"))


def _name(config: Config) -> str:
    parts = [name for name, on in (("ML", config.mlc.ml), ("IUR", config.mlc.iur)) if on]
    detector = config.model.detector
    return {"ML IUR": "MLC", "": detector}.get(" ".join(parts), f"{detector} + {''.join(parts)}")


def _train(stage: Stage, datasets: Datasets | None, progress: bool) -> tuple[dict[str, float], Datasets]:
    say(stage.title)
    trainer = Trainer(stage.config, progress=progress, datasets=datasets)
    if not stage.goes_on:
        say(f"{trainer.train_set.summary()}\n{trainer.val_set.summary()}")
    if stage.resume is not None:
        path = trainer.resume(stage.resume, stage.allowed)
        say(f"resumed from {path}" if path else f"nothing to resume in {stage.config.run.out}")
    if table := trainer.start_from_init():
        say(table)
    metrics = trainer.run(None if stage.until is None else first_iteration(stage.until, len(trainer.loader)))
    for line in trainer.ending() if stage.until is None else ():
        say(line)
    return metrics, trainer.datasets


def _unfinished(prog: str, runs: dict[str, Config], results: dict[str, dict[str, float]], begun: Sequence[str]) -> str:
    """The results of the runs that are finished, how to continue those that are not, and the runs not started."""
    lines = [""]
    if done := _in_order(runs, results):
        lines.append(report(*done.values(), names=tuple(done)))
    for name in (name for name in runs if name in begun and name not in results):
        lines.append(f"not finished: {name}")
        settings = Path(runs[name].run.out) / "config.json"
        if _is_of(settings, runs[name]):
            lines.append(f"to continue it: {command(prog, 'train', '--config', settings, '--resume', 'auto')}")
    if left := [name for name in runs if name not in begun]:
        lines.append(f"not started: {'; '.join(left)}")
    return "\n".join(lines)


def _is_of(settings: Path, config: Config) -> bool:
    """Whether a config.json is of this run, not of an earlier one in the same folder."""
    return settings.is_file() and settings.read_text(**ENCODING) == with_absolute_paths(config).to_json()


def _in_order(runs: dict[str, Config], results: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: results[name] for name in runs if name in results}
