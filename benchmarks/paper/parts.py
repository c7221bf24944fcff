"""What is trained for the rows of one seed: shared first parts, and what goes on from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlc_ext import MLCConfig
from mlc_ext.detectors.config.overrides import assign, differences, from_dict
from mlc_ext.detectors.config.overrides import override as set_to
from mlc_ext.detectors.config.presets import r50
from mlc_ext.detectors.config.settings import Config, DataConfig, ModelConfig, RunConfig, ScheduleConfig
from mlc_ext.detectors.data.build import CACHE, build_datasets
from mlc_ext.detectors.runs.checkpoint import NAME

from .data import Data, epochs_for, with_side
from .rows import ROWS, STEMS, SWITCH

SCALES = ("small", "gpu", "full")
DONE = "done.json"


@dataclass(frozen=True, eq=False)
class Part:
    """A piece of work of one process: a run or its first part, or a test of another part's detector."""

    name: str
    config: Config
    data: Data
    switch: float
    """Epoch at which first parts end."""
    after: Part | None = None
    is_stem: bool = False
    tests: bool = False
    labels: str | None = None
    """As in :class:`paper.rows.Row`."""
    cached: bool = False
    """Whether the backbone is fixed and its maps are taken from a cache."""

    @property
    def out(self) -> Path:
        return Path(self.config.run.out)

    @property
    def checkpoint(self) -> Path:
        return self.out / NAME

    @property
    def stem(self) -> Part:
        return self if self.after is None else self.after.stem

    @property
    def key(self) -> str:
        """Of its row."""
        return self.out.name

    def results(self, split: str) -> Path:
        """The detections on the images of ``split``, "val" or "test"."""
        return self.out / {"val": "results.json", "test": "held_back_results.json"}[split]

    def metrics(self, split: str) -> Path:
        return self.out / {"val": "metrics.json", "test": "held_back_metrics.json"}[split]

    @property
    def commit(self) -> str | None:
        """The commit that trained it; None where its record has none."""
        return json.loads((self.out / DONE).read_text()).get("commit")

    def record(self) -> dict:
        """The settings that affect the result."""
        return {"config": self.config.to_dict(), "cached": self.cached, "labels": self.labels}

    @property
    def done(self) -> bool:
        """ValueError if it was done with other settings."""
        path = self.out / DONE
        if not path.exists():
            return False
        record = json.loads(path.read_text())
        found = differences(from_dict(record["config"]), self.config)
        changed = [n for n in found if not n.startswith("run.") or n == "run.seed"]
        changed += [
            n for n, before in (("cached", False), ("labels", None)) if record.get(n, before) != getattr(self, n)
        ]
        if changed:
            raise ValueError(f"{self.out} was made with other settings ({', '.join(changed)}): choose another --out")
        return True


def scale_config(scale: str, detector: str) -> Config:
    """The paper's settings for ``detector``, or what of them fits the scale: lengths keep the paper's fractions."""
    if scale == "full":
        return set_to(r50(detector, ml=False, iur=False), "schedule.epochs", 19)
    model = {"backbone": "efficientnet_lite0", "weights": "imagenet"}
    schedule = {"optimizer": "adamw", "weight_decay": 1e-2, "bias_lr_factor": 1.0, "warmup": "linear"}
    if scale == "small":
        # with fixed statistics and frozen stages the classes stay at chance
        model |= {"norm": "bn", "frozen_stages": 0, "fpn_channels": 64} | (
            {} if detector == "rpn" else {"num_convs": 2}
        )
        schedule |= {"epochs": 5, "batch_size": 8, "lr": 1e-3, "warmup_iterations": 50}
        data = DataConfig(short_side=160, long_side=160, cache=True)
    else:
        model |= {"fpn_channels": 128}
        schedule |= {"epochs": 19, "batch_size": 16, "lr": 1e-3, "warmup_iterations": 100, "precision": "bf16"}
        data = DataConfig(short_side=320, long_side=320, cache=True, workers=4)
    return Config(
        model=ModelConfig(detector=detector, **model),
        mlc=MLCConfig.paper(detector, ml=False, iur=False),
        data=data,
        schedule=ScheduleConfig(**schedule),
        run=RunConfig(
            channels_last=True,
            compile="inductor" if scale == "gpu" else None,
            keep_checkpoints=1,
            eval_every=1 if scale == "small" else 2,
            label_images=128,
        ),
    )


@dataclass(frozen=True)
class Plan:
    """What all parts have in common.

    steps: of the second part, at least; None: the scale's epochs. settings: KEY=VALUE texts, laid over the scale's;
    with ``mlc.start_epoch`` the switch is there. threads: CPU threads of a part. cached: see :mod:`paper.features`.
    """

    scale: str
    data: Data
    out: Path
    settings: Sequence[str] = ()
    threads: int | None = None
    steps: int | None = None
    cached: bool = False

    def parts(self, rows: Sequence[str], seed: int) -> list[Part]:
        """The parts of one seed, each after those it goes on from."""
        stems: dict[str, Part] = {}
        parts: dict[str, Part] = {}
        for key in [key for key in ROWS if key in {*rows, *(ROWS[row].tested_from for row in rows)}]:
            row = ROWS[key]
            if row.stem not in stems:
                stems[row.stem] = self._stem(row.stem, seed)
            before = stems[row.stem] if row.tested_from is None else parts[row.tested_from]
            config = before.config
            changes = {**row.settings, "run.results": True, "run.out": str(self.out / f"seed{seed}" / key)}
            if row.start is not None:
                changes["mlc.start_epoch"] = before.switch * row.start / SWITCH
            for name, value in changes.items():
                config = set_to(config, name, value)
            parts[key] = Part(
                f"seed {seed}: {row.name}",
                config,
                self.data,
                before.switch,
                after=before,
                tests=row.tested_from is not None,
                labels=row.labels,
                cached=self.cached,
            )
        return [*stems.values(), *parts.values()]

    def _stem(self, name: str, seed: int) -> Part:
        stem = STEMS[name]
        config = scale_config(self.scale, stem.detector)
        if self.scale == "small":
            config = with_side(config, self.data.side)
        common = {"run.seed": seed, "run.threads": self.threads, **self.data.settings, **stem.settings}
        if self.cached:
            common |= {"run.eval_every": None, "data.workers": 0, "run.compile": None}
        for key, value in common.items():
            config = set_to(config, key, value)
        config = assign(config, self.settings)
        given = {text.partition("=")[0] for text in self.settings}
        if self.steps is not None and "schedule.epochs" not in given:
            images = len(build_datasets(set_to(config, "data.cache", False), CACHE)[0])
            length = -(-images // config.schedule.batch_size)
            config = set_to(config, "schedule.epochs", epochs_for(self.steps, length, SWITCH))
        switch = config.schedule.epochs * SWITCH / 19
        if "mlc.start_epoch" in given:
            switch = config.mlc.start_epoch
        config = set_to(config, "mlc.start_epoch", switch * stem.start / SWITCH)
        config = set_to(config, "run.out", str(self.out / f"seed{seed}" / f"stem_{name}"))
        return Part(f"seed {seed}: {name}, first part", config, self.data, switch, is_stem=True)
