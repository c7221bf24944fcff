"""Small training runs for tests: their configuration, and train.py as a program, alone or under torchrun."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
from optional_packages import installed

from mlc_ext.detectors import distributed, train
from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.presets import preset, with_epochs
from mlc_ext.detectors.config.settings import Config
from mlc_ext.detectors.engine.trainer import Trainer

DETECTORS = Path(__file__).resolve().parents[1] / "detectors"

TINY = {
    # a third of resnet18's time, and of its checkpoints
    "model.backbone": "efficientnet_lite0" if installed("efficientnet_lite_pytorch") else "resnet18",
    "model.weights": None,
    "model.norm": "fixed",  # trained statistics are each rank's own
    "model.fpn_channels": 64,
    "data.generated_images": 7,
    "data.generated_size": 64,
    "data.short_side": 96,
    "data.long_side": 96,
    "data.workers": 0,
    "schedule.batch_size": 4,
    "schedule.lr": 1e-3,
    "schedule.warmup_iterations": 3,
    "run.device": "cpu",
    "run.threads": 1,
    "run.log_every": 1,
    "mlc.start_epoch": 0.5,
}


def end_rank() -> None:
    """Ends a process that mp.spawn has made, without the interpreter's teardown: see distributed.end_program."""
    distributed.leave()
    os._exit(0)


def tiny_settings(name: str, **settings) -> dict[str, object]:
    """TINY for a preset, with changes: keywords as section__key or section.key."""
    depth = {} if name.startswith("rpn") else {"model.num_convs": 1}
    return depth | TINY | {key.replace("__", "."): value for key, value in settings.items()}


def set_options(name: str, **settings) -> list[str]:
    """:func:`tiny_settings` as options of train.py."""
    return [f"--set={key}={value}" for key, value in tiny_settings(name, **settings).items()]


def config_of(name: str, out: Path | str, epochs: int = 2, **settings) -> Config:
    """A preset on seven images of 96 pixels, two steps an epoch; settings as for :func:`tiny_settings`."""
    config = override(with_epochs(preset(name), epochs), "run.out", str(out))
    for key, value in tiny_settings(name, **settings).items():
        config = override(config, key, value)
    return config


def train_here(capsys, *arguments: object, name: str = "fcos_minus_r50_mlc", **settings) -> tuple[int, str, str]:
    """train.py in this process, which has paid for the imports -> exit code, stdout, stderr."""
    code = train.main(["--quiet", "--preset", name, *map(str, arguments), *set_options(name, **settings)])
    return code, *capsys.readouterr()


def take_step(trainer: Trainer, images: list[torch.Tensor], targets: list[dict]) -> dict[str, torch.Tensor]:
    """The next iteration of a run, on a batch of the caller's."""
    batch_size = trainer.loader.batch_length(trainer.iteration % len(trainer.loader))
    losses = trainer.stepper.step(trainer.iteration, images, targets, batch_size)
    trainer.iteration += 1
    return losses


def history(out: Path) -> list[dict]:
    """The log entries and evaluations of a run's metrics.jsonl."""
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[dict]:
    """The log entries alone, without what depends on the clock."""
    entries = [entry for entry in history(out) if "loss" in entry]
    return [{key: value for key, value in entry.items() if key != "images_per_second"} for entry in entries]


def start(
    folder: Path,
    *arguments: object,
    ranks: int = 1,
    program: str = "train.py",
    name: str = "fcos_minus_r50_mlc",
    **settings,
) -> subprocess.Popen:
    """train.py with TINY settings, in a process group of its own; ``ranks`` > 1 under torchrun."""
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(free_port())]
    command += [str(DETECTORS / program)]
    if program == "train.py":
        command += ["--quiet", "--preset", name, *set_options(name, **settings)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, seconds: float = 120) -> tuple[int, str, str]:
    """-> exit code, stdout, stderr; one that hangs is killed with its children and fails the test."""
    try:
        out, error = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, error


def wait_until(process: subprocess.Popen, condition, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def reached(out: Path, iteration: int) -> bool:
    """Whether a run has logged that iteration."""
    path = Path(out) / "metrics.jsonl"
    return path.exists() and f'"iteration": {iteration},' in path.read_text()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def assert_same(a: object, b: object, where: str = "") -> None:
    """Bit for bit, through dicts and lists."""
    if isinstance(a, dict) and isinstance(b, dict):  # ordered or not
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
        return
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b or (a != a and b != b), where  # NaN is the same as NaN
