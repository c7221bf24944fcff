"""train.py --seeds and --compare where one of the runs fails: what is printed of the others, and how it goes on."""

import os
import shlex
import signal

import pytest
from small_runs import assert_same, config_of, train_here

from mlc_ext.detectors import series, train
from mlc_ext.detectors.data.coco import dataset as coco_dataset
from mlc_ext.detectors.data.generated.dataset import generate
from mlc_ext.detectors.data.loading.verify import broken_images
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


def test_the_runs_share_the_data(program, tmp_path, monkeypatch):
    """They are read and verified once, and each run's log has the warnings."""
    root = generate(tmp_path / "images", num_train=6, num_val=3, image_size=64)
    broken = min((root / "train").iterdir())
    broken.write_bytes(broken.read_bytes()[:100])
    checked = []
    monkeypatch.setattr(
        coco_dataset,
        "broken_images",
        lambda images, **options: checked.append(len(images)) or broken_images(images, **options),
    )
    arguments = ("--compare", "--set", f"data.data={root}", "--set", "data.verify=true", "--set", "mlc.start_epoch=0.5")
    assert program(*arguments, "--out", "runs")[0] == 0
    assert checked == [6, 3]
    for name in ("baseline", "MLC"):
        log = (tmp_path / "runs" / name / "log.txt").read_text()
        assert "5 images, " in log and "1 of 6 images are left out: 1 broken images" in log


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


def test_the_method_fails_in_its_first_step_and_goes_on(program, monkeypatch, capsys):
    """Its folder has the shared checkpoint; the baseline, which comes after it, continues too."""
    with monkeypatch.context() as patch:
        act_before_step(patch, 2, fail)
        code, out, error = program("--compare", "--out", "runs")
    assert (code, error) == (2, "train.py: MLC: the disk is gone\n")
    lines = out.splitlines()[-4:]
    assert lines[::2] == ["not finished: baseline", "not finished: MLC"]
    for line in lines[1::2]:
        assert train.main([*shlex.split(line.removeprefix("to continue it: "))[2:], "--quiet"]) == 0
        assert "resumed from " in capsys.readouterr().out
    assert program("--compare", "--out", "whole")[0] == 0
    for name in ("baseline", "MLC"):
        states = [load_checkpoint(f"{folder}/{name}/checkpoint.pt") for folder in ("runs", "whole")]
        assert_same(states[0]["model"], states[1]["model"])


def test_an_earlier_run_in_the_folder_is_not_continued(program, monkeypatch):
    assert program("--out", "runs/MLC")[0] == 0
    monkeypatch.setattr(series, "Trainer", lambda *_, **__: fail())
    _, out, _ = program("--compare", "--seed", 5, "--out", "runs")
    assert out.splitlines()[-2:] == ["not finished: baseline", "not started: MLC"]
    monkeypatch.undo()
    monkeypatch.setattr(series, "Trainer", lambda *_, **__: fail())
    _, out, _ = program("--seeds", 2, "--out", "runs")
    assert "to continue it" not in out


STARTS = {"mlc.start_epoch": 7.0}


@pytest.mark.parametrize(
    ("settings", "shared"),
    [
        ({}, 7.0),
        ({"mlc.iur_start_epoch": 5.5}, 5.5),
        ({"mlc.iur_start_epoch": 9.0}, 7.0),
        ({"mlc.ml": False, "mlc.iur_start_epoch": 9.0}, 9.0),
        ({"mlc.iur_start_epoch": 0.0}, None),
        ({"mlc.start_epoch": 0.0}, None),
        ({"mlc.start_epoch": 10.0}, None),
        ({"mlc.alignment": 1.0}, None),
        ({"mlc.ml": False, "mlc.iur": False}, None),
        ({"model.init": "x.pt"}, None),
    ],
)
@pytest.mark.parametrize("seeds", [1, 2])
def test_what_a_comparison_shares(settings, shared, seeds):
    config = config_of("fcos_minus_r50_mlc", "runs", 10, **(STARTS | settings))
    runs = series.runs_of(config, compare=True, seeds=seeds)
    stages = series.stages_of(runs)
    names = list(runs)
    assert len(names) == 2 * seeds and {stage.name for stage in stages} == set(names)
    for baseline, method in zip(names[::2], names[1::2], strict=True):
        assert not runs[baseline].mlc.starts() and runs[method].mlc == config.mlc
        found = [(stage.name, stage.until, stage.resume) for stage in stages if stage.name in (baseline, method)]
        checkpoint = f"{runs[baseline].run.out}/checkpoint.pt"
        assert found == (
            [(baseline, None, None), (method, None, None)]
            if shared is None
            else [(baseline, shared, None), (method, None, checkpoint), (baseline, None, "auto")]
        )


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
