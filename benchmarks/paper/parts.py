"""What is trained for the rows of one seed: shared first parts, and what goes on from them."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _harness import commit

from mlc_ext import MLCConfig
from mlc_ext.detectors.config.overrides import assign, differences, from_dict
from mlc_ext.detectors.config.overrides import override as set_to
from mlc_ext.detectors.config.presets import r50
from mlc_ext.detectors.config.settings import Config, DataConfig, ModelConfig, RunConfig, ScheduleConfig
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.evaluation.measure import evaluate_checkpoint
from mlc_ext.detectors.runs.checkpoint import NAME
from mlc_ext.detectors.runs.files import plain, write_whole

from .rows import ROWS, STEMS

SCALES = ("small", "gpu", "full")
DONE = "done.json"


@dataclass(frozen=True, eq=False)
class Part:
    """A piece of work of one process: a run or its first part, or a test of another part's detector."""

    name: str
    config: Config
    after: Part | None = None
    is_stem: bool = False
    tests: bool = False

    @property
    def out(self) -> Path:
        return Path(self.config.run.out)

    @property
    def checkpoint(self) -> Path:
        return self.out / NAME

    @property
    def commit(self) -> str | None:
        """That it was trained at; None where its record does not say."""
        return json.loads((self.out / DONE).read_text()).get("commit")

    @property
    def done(self) -> bool:
        """ValueError if it was done with other settings."""
        path = self.out / DONE
        if not path.exists():
            return False
        before = from_dict(json.loads(path.read_text())["config"])
        changed = [n for n in differences(before, self.config) if not n.startswith("run.") or n == "run.seed"]
        if changed:
            raise ValueError(f"{self.out} was made with other settings ({', '.join(changed)}): choose another --out")
        return True


def scale_config(scale: str, detector: str) -> Config:
    """The paper's settings for ``detector``, or what of them fits the scale: lengths keep the paper's fractions."""
    if scale == "full":
        return set_to(r50(detector, ml=False, iur=False), "schedule.epochs", 19)
    model = {"backbone": "efficientnet_lite0", "weights": "imagenet"}
    if scale == "small":  # with fixed statistics and frozen stages the classes stay at chance
        model |= {"norm": "bn", "frozen_stages": 0}
    schedule = {"optimizer": "adamw", "weight_decay": 1e-2, "bias_lr_factor": 1.0, "warmup": "linear"}
    if scale == "small":
        model |= {"fpn_channels": 64} | ({} if detector == "rpn" else {"num_convs": 2})
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


def build_parts(
    rows: Sequence[str],
    scale: str,
    seed: int,
    out: Path,
    data: str | None,
    settings: Sequence[str],
    threads: int | None,
) -> list[Part]:
    """The parts of one seed, each after those it goes on from.

    Args:
        settings: KEY=VALUE texts, laid over the scale's settings; with ``mlc.start_epoch`` the switch is there, else
            at the stem's fraction of ``schedule.epochs``.
        threads: CPU threads of a part.
    """
    stems: dict[str, Part] = {}
    parts: dict[str, Part] = {}
    order = [key for key in ROWS if key in {*rows, *(ROWS[row].tested_from for row in rows)}]
    for key in order:
        row = ROWS[key]
        folder = out / f"seed{seed}"
        if row.stem not in stems:
            stem = STEMS[row.stem]
            config = scale_config(scale, stem.detector)
            common = {"data.data": data, "run.seed": seed, "run.threads": threads, **stem.settings}
            for name, value in common.items():
                config = set_to(config, name, value)
            config = _with_settings(config, settings, stem.switch)
            config = set_to(config, "run.out", str(folder / f"stem_{row.stem}"))
            stems[row.stem] = Part(f"seed {seed}: {row.stem}, first part", config, is_stem=True)
        before = stems[row.stem] if row.tested_from is None else parts[row.tested_from]
        config = before.config
        for name, value in {**row.settings, "run.results": True, "run.out": str(folder / key)}.items():
            config = set_to(config, name, value)
        parts[key] = Part(f"seed {seed}: {row.name}", config, after=before, tests=row.tested_from is not None)
    return [*stems.values(), *parts.values()]


def _with_settings(config: Config, settings: Sequence[str], switch: int) -> Config:
    config = assign(config, settings)
    if any(text.startswith("mlc.start_epoch=") for text in settings):
        return config
    return set_to(config, "mlc.start_epoch", config.schedule.epochs * switch / 19)


def work(part: Part) -> None:
    """Does a part, from where it stopped; its text goes to out.txt in its folder."""
    part.out.mkdir(parents=True, exist_ok=True)
    sys.stdout = sys.stderr = open(part.out / "out.txt", "a", buffering=1)
    began = time.perf_counter()
    try:
        _test(part) if part.tests else _train(part)
    except KeyboardInterrupt:
        sys.exit(130)
    record = {"seconds": time.perf_counter() - began, "commit": commit(), "config": part.config.to_dict()}
    write_whole(part.out / DONE, json.dumps(record) + "\n")


def _train(part: Part) -> None:
    trainer = Trainer(part.config, progress=False)
    if trainer.resume("auto") is None and part.after is not None:
        trainer.resume(part.after.checkpoint, tuple(differences(part.after.config, part.config)))
    switch = math.ceil(part.config.mlc.start_epoch * len(trainer.loader))
    trainer.run(switch if part.is_stem else None)


def _test(part: Part) -> None:
    changed = {name: after for name, (_, after) in differences(part.after.config, part.config).items()}
    settings = [f"{name}={value}" for name, value in changed.items() if not name.startswith("run.")]
    metrics = evaluate_checkpoint(
        part.after.checkpoint, device=part.config.run.device, results=part.out / "results.json", settings=settings
    )
    write_whole(part.out / "metrics.json", json.dumps(plain({"metrics": metrics}), indent=1) + "\n")
