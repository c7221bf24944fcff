"""train.py --seeds and --compare where one of the runs fails: what is printed of the others, and how it goes on."""

import os
import shlex
import signal

import pytest
from small_runs import assert_same, train_here

from mlc_ext.detectors import series, train
from mlc_ext.detectors.engine.train_step import Stepper
from mlc_ext.detectors.runs.checkpoint import load_checkpoint

NAMES = ["MLC, seed 0", "MLC, seed 1", "MLC, seed 2"]


@pytest.fixture
def program(tmp_path, monkeypatch, capsys):
    """train.py for one epoch of two steps a run, in a folder of its own -> exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: train_here(capsys, "--epochs", 1, *arguments, run__save_every=1, run__correlation="false")


def act_before_step(monkeypatch, number, act):
    """Calls ``act`` before step ``number`` of all runs together."""
    step, calls = Stepper.step, []

    def wrapped(*arguments):
        calls.append(None)
        if len(calls) == number:
            act()
        return step(*arguments)

    monkeypatch.setattr(Stepper, "step", wrapped)


def fail():
    raise OSError("the disk is gone")


def test_the_second_run_fails_and_goes_on(program, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        act_before_step(patch, 4, fail)
        code, out, error = program("--seeds", 3, "--out", "runs")
    assert (code, error) == (2, "train.py: MLC, seed 1: the disk is gone\n")
    begin, end = out.index("\n\n"), out.splitlines()[-3:]
    assert out[begin:].split()[:2] == ["AP", "AP50"] and out[begin:].splitlines()[3].startswith("MLC, seed 0  ")
    text = "mlc-ext train --config runs/seed1/MLC/config.json --resume auto"
    assert end == ["not finished: MLC, seed 1", f"to continue it: {text}", "not started: MLC, seed 2"]
    assert load_checkpoint("runs/seed1/MLC/checkpoint.pt")["iteration"] == 1

    assert train.main([*shlex.split(text)[2:], "--quiet"]) == 0
    assert "resumed from " in capsys.readouterr().out
    assert program("--seed", 1, "--out", "whole")[0] == 0
    states = [load_checkpoint(f"{folder}/checkpoint.pt") for folder in ("runs/seed1/MLC", "whole")]
    assert_same(states[0]["model"], states[1]["model"])
    assert states[0]["iteration"] == 2


def test_the_first_run_fails(program, monkeypatch):
    act_before_step(monkeypatch, 1, fail)
    code, out, error = program("--compare", "--out", "runs")
    assert (code, error) == (2, "train.py: baseline: the disk is gone\n") and "AP50" not in out
    assert out.splitlines()[-3] == "not finished: baseline" and out.splitlines()[-1] == "not started: MLC"


def test_a_comparison_fails_after_its_shared_part_and_goes_on(program, monkeypatch, capsys):
    """Both runs continue from their own checkpoints."""
    with monkeypatch.context() as patch:
        act_before_step(patch, 3, fail)  # the baseline's second: the method is finished
        code, out, error = program("--compare", "--out", "runs")
    assert (code, error) == (2, "train.py: baseline: the disk is gone\n")
    table, *end = out.splitlines()[-3:]
    text = "mlc-ext train --config runs/baseline/config.json --resume auto"
    assert table.startswith("MLC  ") and end == ["not finished: baseline", f"to continue it: {text}"]

    with monkeypatch.context() as patch:
        act_before_step(patch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))  # the method's first
        code, out, _ = program("--compare", "--out", "again")
    assert code == 130
    lines = out.splitlines()[-4:]
    assert lines[::2] == ["not finished: baseline", "not finished: MLC"]
    for line in lines[1::2]:
        assert train.main([*shlex.split(line.removeprefix("to continue it: "))[2:], "--quiet"]) == 0
    capsys.readouterr()
    assert program("--compare", "--out", "whole")[0] == 0
    for name in ("baseline", "MLC"):
        states = [load_checkpoint(f"{folder}/{name}/checkpoint.pt") for folder in ("again", "whole")]
        assert_same(states[0]["model"], states[1]["model"])
        assert states[0]["iteration"] == 2


def test_an_interrupted_run(program, monkeypatch):
    act_before_step(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGINT))
    code, out, error = program("--seeds", 3, "--out", "runs")
    assert code == 130 and error.startswith("interrupted: runs/seed2/MLC/checkpoint.pt holds iteration 1 of 2")
    lines = out.splitlines()
    assert lines[-2] == "not finished: MLC, seed 2" and lines[-1].startswith("to continue it: ")
    assert [line.split("  ")[0] for line in lines[-4:-2]] == NAMES[:2]


def test_a_run_that_cannot_begin(program, monkeypatch):
    """It has no settings to go on with."""
    monkeypatch.setattr(series, "Trainer", lambda *_, **__: fail())
    code, out, error = program("--seeds", 2, "--out", "runs")
    assert (code, error) == (2, "train.py: MLC, seed 0: the disk is gone\n")
    assert out.splitlines()[-2:] == ["not finished: MLC, seed 0", "not started: MLC, seed 1"]


def test_one_run_alone_is_not_named(program, monkeypatch):
    act_before_step(monkeypatch, 1, fail)
    code, out, error = program("--out", "runs")
    assert (code, error) == (2, "train.py: the disk is gone\n") and "not finished" not in out
