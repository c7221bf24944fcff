"""The work of a part, in a process of its own."""

from __future__ import annotations

import json
import signal
import sys
import time

from _harness import commit

from mlc_ext.detectors.config.overrides import differences
from mlc_ext.detectors.config.overrides import override as set_to
from mlc_ext.detectors.data.build import CACHE, build_validation_set
from mlc_ext.detectors.engine.optim import first_iteration
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.evaluation.measure import evaluate, evaluate_checkpoint, rank_batch
from mlc_ext.detectors.runs.files import plain, write_whole

from .features import CachedTrainer, ensure_cache
from .labels import label_one_task
from .parts import DONE, Part


def work(part: Part) -> None:
    """Does a part, from where it stopped; its text goes to out.txt in its folder."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # blocked where the parts are started
    part.out.mkdir(parents=True, exist_ok=True)
    sys.stdout = sys.stderr = open(part.out / "out.txt", "a", buffering=1)
    began, cpu = time.perf_counter(), time.process_time()
    try:
        _test(part) if part.tests else _train(part)
    except KeyboardInterrupt:
        sys.exit(130)
    spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    write_whole(part.out / DONE, json.dumps({**spent, "commit": commit(), **part.record()}) + "\n")


def _train(part: Part) -> None:
    if part.cached and not part.is_stem:
        ensure_cache(part.stem.checkpoint, part.stem.config, part.stem.out)
        trainer: Trainer = CachedTrainer(part.config, part.stem.out)
    else:
        trainer = Trainer(part.config, progress=False)
    if part.labels is not None:
        label_one_task(trainer.model, part.labels)
    if trainer.resume("auto") is None and part.after is not None:
        trainer.resume(part.after.checkpoint, tuple(differences(part.after.config, part.config)))
    trainer.run(first_iteration(part.switch, len(trainer.loader)) if part.is_stem else None)
    if part.is_stem or not part.data.held_back:
        return
    config = set_to(part.data.with_split(part.config, "test"), "data.cache", False)
    metrics = evaluate(
        trainer.model,
        build_validation_set(config, CACHE),
        batch_size=rank_batch(config),
        device=trainer.device,
        workers=config.data.workers,
        backend=config.data.evaluator,
        results=part.results("test"),
        progress=False,
    )
    _write_metrics(part, metrics, "test")


def _test(part: Part) -> None:
    changed = {name: after for name, (_, after) in differences(part.after.config, part.config).items()}
    settings = [f"{name}={value}" for name, value in changed.items() if not name.startswith("run.")]
    for split in part.data.evaluated:
        metrics = evaluate_checkpoint(
            part.after.checkpoint,
            device=part.config.run.device,
            results=part.results(split),
            settings=settings + [f"{name}={value}" for name, value in part.data.changes(split).items()],
        )
        _write_metrics(part, metrics, split)


def _write_metrics(part: Part, metrics: dict[str, float], split: str) -> None:
    write_whole(part.metrics(split), json.dumps(plain({"metrics": metrics}), indent=1) + "\n")
