"""A run's folder read without its data: settings, history, metrics, and what is missing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.overrides import differences, from_dict
from ..config.paths import with_absolute_paths
from ..config.settings import Config
from .checkpoint import BEST, NAME, runs_within
from .files import ENCODING


@dataclass
class Run:
    """A folder written by train.py."""

    folder: Path
    name: str
    """The shortest unique suffix of its path."""
    config: Config | None
    history: list[dict[str, Any]]
    """Log entries and evaluations, in order."""
    metrics: dict[str, float]
    """Metrics of an evaluation, by default the last one, NaN where undefined; empty without an evaluation."""
    source: str
    """Where the metrics come from, as text."""
    history_file: str
    """Name of the file of the history."""
    notes: list[str] = field(default_factory=list)
    """What is missing or cannot be read."""
    validation: str | None = None
    """Digest of the validation set that it was evaluated on for this report; None: it was not."""

    @property
    def logged(self) -> list[dict[str, Any]]:
        """The history's log entries."""
        return [entry for entry in self.history if "loss" in entry]

    @property
    def evaluated(self) -> list[tuple[int, dict[str, float]]]:
        """(iteration, metrics) of the evaluations in the history; the last one of each iteration."""
        found = {entry["iteration"]: entry["metrics"] for entry in self.history if "metrics" in entry}
        return [(iteration, _numbers(metrics)) for iteration, metrics in found.items()]

    def take_evaluation(self, iteration: int) -> None:
        """Makes the metrics those of the evaluation at ``iteration``, which is in the history."""
        self.metrics, self.source = dict(self.evaluated)[iteration], f"{self.history_file}, iteration {iteration}"

    def epoch(self, iteration: int) -> float:
        """An iteration in epochs, by the ratio of the two in the log."""
        for entry in reversed(self.logged):
            if entry["iteration"] and entry["epoch"]:
                return iteration * entry["epoch"] / entry["iteration"]
        return float(iteration)

    @property
    def mutual_start(self) -> float | None:
        """The epoch at which mutual labeling starts; None if it does not start in this run."""
        if self.config is not None:
            mlc = self.config.mlc
            return mlc.start_epoch if mlc.ml and mlc.start_epoch < self.config.schedule.epochs else None
        return next((entry["epoch"] for entry in self.logged if entry.get("mutual")), None)

    @property
    def rate_drops(self) -> list[float]:
        """Epochs at which the learning rate falls."""
        if self.config is None:
            return []
        return [epoch for epoch in self.config.milestones() if epoch < self.config.schedule.epochs]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in the given order. ValueError or FileNotFoundError for a folder that is not a run's, or given twice."""
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise ValueError(f"{folder} is given twice")
        seen.add(folder.resolve())
    return [_read(folder, name) for folder, name in zip(folders, run_names(folders), strict=True)]


def run_names(folders: Sequence[Path]) -> list[str]:
    """The shortest unique suffix of each path."""
    parts = [folder.resolve().parts for folder in folders]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        length = next((n for n in range(1, len(own)) if all(o[-n:] != own[-n:] for o in others)), len(own))
        names.append(Path(*own[-length:]).as_posix())
    return names


def comparable(a: Run, b: Run) -> bool:
    """Whether the metrics of both are of the same validation set, as far as is known: by what was read for this report,
    else by their settings."""
    if a.validation is not None and b.validation is not None:
        return a.validation == b.validation
    if a.config is None or b.config is None:
        return True
    return _validation_settings(a.config) == _validation_settings(b.config)


def _validation_settings(config: Config) -> list[object]:
    data = with_absolute_paths(config).data
    names = ["data", "val_images", "val_annotations", "val_is_train", "val_fraction", "validation_limit", "categories"]
    if data.val_is_train:
        names += ["train_images", "train_annotations"]
    if data.val_fraction is not None:
        names += ["train_images", "train_annotations", "val_seed"]
    if data.data is None:
        names += ["generated_images", "generated_size"]
    return [getattr(data, name) for name in names]


def setting_differences(runs: Sequence[Run]) -> dict[str, list[object]]:
    """``section.key`` -> the value of each run, for the settings that are not the same in all runs, except ``run.out``.

    Runs without a configuration have None for all."""
    known = [run.config for run in runs if run.config is not None]
    names: dict[str, None] = {}
    for config in known[1:]:
        names |= dict.fromkeys(differences(known[0], config))
    names.pop("run.out", None)
    return {name: [_setting(run.config, name) for run in runs] for name in names}


def _setting(config: Config | None, name: str) -> object:
    section, _, key = name.partition(".")
    return None if config is None else getattr(getattr(config, section), key)


def _read(folder: Path, name: str) -> Run:
    files = {part: folder / part for part in ("config.json", "metrics.jsonl", "metrics.json", NAME, BEST)}
    if not folder.exists():
        raise FileNotFoundError(f"no run {folder}")
    if not any(file.is_file() for file in files.values()):
        what = "is a file" if folder.is_file() else f"has none of {', '.join(files)}"
        raise ValueError(f"{folder} is not the folder of a run: it {what}{runs_within(folder)}")
    notes: list[str] = []
    config = _config(files["config.json"], notes)
    history, source = _history(files, notes)
    run = Run(folder, name, config, history, {}, "", source, notes)
    if run.evaluated:
        run.take_evaluation(run.evaluated[-1][0])
    else:
        notes.append("no evaluation in its history")
    return run


def _config(path: Path, notes: list[str]) -> Config | None:
    try:
        return from_dict(json.loads(path.read_text(**ENCODING)))
    except FileNotFoundError:
        notes.append("no config.json: the settings are not known")
    except ValueError as error:
        notes.append(f"config.json cannot be read: {error}")
    return None


def _history(files: dict[str, Path], notes: list[str]) -> tuple[list[dict], str]:
    """(entries, file) of metrics.jsonl, which an interrupted run has too, or else of metrics.json."""
    if files["metrics.jsonl"].is_file():
        entries, damaged = [], 0
        for line in files["metrics.jsonl"].read_text(**ENCODING).splitlines():
            entry = _entry(line)
            damaged += entry is None
            if entry is not None:
                entries.append(entry)
        if damaged:
            notes.append(f"{damaged} lines of metrics.jsonl cannot be read")
        if not files["metrics.json"].is_file():
            notes.append("no metrics.json: interrupted before its first evaluation, or still running")
        return entries, "metrics.jsonl"
    try:
        content = json.loads(files["metrics.json"].read_text(**ENCODING))
        entries = [entry for entry in content["history"] if isinstance(entry, dict) and "iteration" in entry]
        notes.append("no metrics.jsonl: the history ends with the last evaluation")
        return entries, "metrics.json"
    except FileNotFoundError:
        notes.append("no metrics.jsonl: the history is not known")
    except (ValueError, KeyError, TypeError) as error:
        notes.append(f"metrics.json cannot be read: {error}")
    return [], ""


def _entry(line: str) -> dict | None:
    """A line of metrics.jsonl; None for an incomplete line of a killed run."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    complete = isinstance(entry, dict) and "iteration" in entry and ("metrics" in entry or "epoch" in entry)
    return entry if complete else None


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """``metrics`` with NaN for null."""
    return {key: math.nan if value is None else value for key, value in metrics.items()}
