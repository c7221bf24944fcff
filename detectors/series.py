"""The runs of one command of train.py: several seeds, and the baseline beside the method."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from .command_line import command, say
from .config.overrides import differences, override
from .config.settings import Config
from .engine.trainer import Trainer
from .evaluation.metrics_table import report
from .runs.checkpoint import NAME

_SEED = ", seed "
"""Between a run's kind and its seed, in names."""
_BASELINE = "baseline"
"""Kind of the run that --compare trains before each run of the method."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A run, or a part of it."""

    name: str
    config: Config
    resume: str | None = None
    """The checkpoint that it goes on from; "auto": the newest in its folder."""
    allowed: tuple[str, ...] = ()
    """Settings in which that checkpoint's run may differ."""
    until: float | None = None
    """The epoch at which it stops; None: the end."""
    note: str = ""
    """Printed behind the folder."""


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
    """Trains the runs and returns the metrics of each, in their order. If one of several fails, the results of the
    finished ones are printed, and how to continue.

    Args:
        prog: the name that the program was called by.
        begun: of several runs, the names of those that are started are appended.
        resume, allowed: of the only run; see :meth:`Trainer.resume`.
        progress: whether progress bars are shown.
    """
    results: dict[str, dict[str, float]] = {}
    stages = _stages(runs) if resume is None else [Stage(name, each, resume, allowed) for name, each in runs.items()]
    try:
        for stage in stages:
            if len(runs) > 1:
                begun.append(stage.name)
            metrics = _train(stage, progress)
            if stage.until is None:
                results[stage.name] = metrics
    except BaseException:  # after Ctrl-C too
        if begun:
            say(_unfinished(prog, runs, results, begun))
        raise
    return {name: results[name] for name in runs}


def _stages(runs: dict[str, Config]) -> list[Stage]:
    """What is trained, in order. What a baseline and its method have in common is trained once."""
    stages: list[Stage] = []
    waiting = list(runs)
    while waiting:
        name = waiting.pop(0)
        start = _shared_epochs(runs[waiting[0]]) if _is_baseline(name) else 0.0
        if not start:
            stages.append(Stage(name, runs[name]))
            continue
        baseline, method = runs[name], runs[waiting[0]]
        checkpoint, changes = str(Path(baseline.run.out, NAME)), tuple(differences(baseline, method))
        epoch = f"epoch {start:.3g}"
        stages += [
            Stage(name, baseline, until=start, note=f", until the method starts at {epoch}"),
            Stage(waiting.pop(0), method, checkpoint, changes, note=f", from {epoch} of the baseline"),
            Stage(name, baseline, "auto", note=f", from {epoch}"),
        ]
    return stages


def _shared_epochs(method: Config) -> float:
    """The epochs until which a run is the same as its baseline; 0: it is another from the start, or never."""
    if method.mlc.alignment or method.model.init is not None:  # a loss without a start; a file with an IoU layer
        return 0.0
    start = min(method.method_starts().values(), default=0.0)
    return start if start < method.schedule.epochs else 0.0


def _is_baseline(name: str) -> bool:
    return name.partition(_SEED)[0] == _BASELINE


def _baseline_of(config: Config) -> Config:
    """The same run without the method."""
    mlc = dataclasses.replace(config.mlc, ml=False, iur=False, alignment=0.0)
    return dataclasses.replace(config, mlc=mlc, model=dataclasses.replace(config.model, nms="rescored"))


def _name(config: Config) -> str:
    parts = [name for name, on in (("ML", config.mlc.ml), ("IUR", config.mlc.iur)) if on]
    detector = config.model.detector
    return {"ML IUR": "MLC", "": detector}.get(" ".join(parts), f"{detector} + {''.join(parts)}")


def _train(stage: Stage, progress: bool) -> dict[str, float]:
    say(f"{stage.name}: {stage.config.run.out}{stage.note}")
    trainer = Trainer(stage.config, progress=progress)
    if not stage.note or stage.until is not None:  # else printed before
        say(f"{trainer.train_set.summary()}\n{trainer.val_set.summary()}")
    if stage.resume is not None:
        path = trainer.resume(stage.resume, stage.allowed)
        if not stage.note:
            say(f"resumed from {path}" if path else f"nothing to resume in {stage.config.run.out}")
    if table := trainer.start_from_init():
        say(table)
    metrics = trainer.run(None if stage.until is None else int(stage.until * len(trainer.loader)))
    for line in trainer.ending() if stage.until is None else ():
        say(line)
    return metrics


def _unfinished(prog: str, runs: dict[str, Config], results: dict[str, dict[str, float]], begun: Sequence[str]) -> str:
    """The results of the runs that are finished, how to continue those that are not, and the runs not started."""
    lines = [""]
    if results:
        lines.append(report(*results.values(), names=tuple(results)))
    for name in (name for name in runs if name in begun and name not in results):
        lines.append(f"not finished: {name}")
        config = Path(runs[name].run.out) / "config.json"
        if config.is_file():
            lines.append(f"to continue it: {command(prog, 'train', '--config', config, '--resume', 'auto')}")
    if left := [name for name in runs if name not in begun]:
        lines.append(f"not started: {'; '.join(left)}")
    return "\n".join(lines)
