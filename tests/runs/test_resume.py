"""A run that was killed and resumed is the run that was not, bit for bit; and what is not resumed from."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest
import torch
from small_runs import assert_same, config_of, finish, history, losses, reached, start, train_here, wait_until

from mlc_ext.detectors.config.overrides import RENAMED, from_dict, override, report_renamed
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.runs.checkpoint import load_checkpoint, load_newest, save_checkpoint, set_aside, tidy

pytestmark = pytest.mark.usefixtures("in_folder")

# random draws (RPN's sampling), batch-norm statistics, averages, parts, and mutual labeling from within an epoch on
EVERYTHING = {
    "model__norm": "bn",
    "schedule__ema": 0.9,
    "schedule__accumulate": 2,
    "mlc__start_epoch": 1.5,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


def assert_same_run(a, b):
    """The final checkpoints, all but times, and the logs."""
    one, two = (load_checkpoint(out / "checkpoint.pt") for out in (a, b))
    for key in ("model", "optimizer", "scaler", "ema", "iteration", "loader"):
        assert_same(one[key], two[key], key)
    assert_same(losses(a), losses(b))
    evaluations = [[entry for entry in history(out) if "metrics" in entry] for out in (a, b)]
    assert_same(*evaluations)


VARIANTS = {
    "rpn": ("rpn_r50_mlc", EVERYTHING, (1, 3)),
    "fp16": ("fcos_minus_r50_mlc", {"schedule__precision": "fp16", "mlc__start_epoch": 1.5}, (2,)),
    "mal": ("fcos_minus_r50_mal_mlc", {"mlc__start_epoch": 1.5}, (3,)),
    "adamw": (
        "retinanet_r50_mlc",
        {"schedule__optimizer": "adamw", "schedule__kind": "cosine", "run__eval_every": 1},
        (1, 2),
    ),
}
"""Preset, settings, and how many iterations before the end the runs are resumed."""


def test_an_assigner_that_is_switched_on(folder):
    """As in the tables of benchmarks/paper: the first part has the detector's own."""
    first = config_of("fcos_minus_r50_mlc", folder / "first")
    Trainer(first, progress=False).run(2)
    second = override(override(first, "model.assigner", "mal"), "run.out", str(folder / "second"))
    trainer = Trainer(second, progress=False)
    checkpoint = folder / "first" / "checkpoint.pt"
    with pytest.raises(ValueError, match="model.assigner"):
        trainer.resume(checkpoint)
    trainer.resume(checkpoint, ("model.assigner", "run.out"))
    trainer.run()
    assert trainer.iteration == 4 and trainer.model.assigner.assigner.progress == 1
    assert_same(losses(folder / "second")[:2], losses(folder / "first"))


def momenta(trainer):
    """The optimizer's first moments by the names of the parameters."""
    states = trainer.stepper.optimizer.state
    return {name: states[p]["exp_avg"].clone() for name, p in trainer.model.named_parameters() if p in states}


def test_centerness_that_is_switched_on(folder):
    """Its layer starts as in a new run of the seed. The other layers continue, with the optimizer's states of them."""
    config = config_of("fcos_minus_r50_mlc", folder / "baseline", schedule__optimizer="adamw")
    first = Trainer(config, progress=False)
    first.run(2)
    second = override(override(config, "model.detector", "fcos"), "run.out", str(folder / "centerness"))
    trainer = Trainer(second, progress=False)
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.resume(folder / "baseline" / "checkpoint.pt", ("model.detector", "run.out"))
    before, after = first.model.state_dict(), trainer.model.state_dict()
    added = {"head.bbox_ctrness.weight", "head.bbox_ctrness.bias"}
    assert after.keys() - before.keys() == added
    assert_same({name: after[name] for name in added}, {name: start[name] for name in added})
    assert_same({name: after[name] for name in before}, before)
    assert_same(momenta(trainer), momenta(first))
    trainer.run()
    assert losses(folder / "centerness")[:2] == losses(folder / "baseline")
    found = [entry["bbox_ctrness"] for entry in history(folder / "centerness") if "bbox_ctrness" in entry]
    assert len(found) == 2 and all(loss > 0 for loss in found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_from_any_iteration(folder, variant):
    """A checkpoint leads to the same end, within an epoch or between two, whatever the generators held meanwhile."""
    name, settings, ages = VARIANTS[variant]
    out = folder / variant
    Trainer(config_of(name, out, run__save_every=1, run__keep_checkpoints=9, **settings), progress=False).run()
    for age in ages:
        torch.manual_seed(99)
        again = Trainer(config_of(name, folder / f"{variant}{age}", **settings), progress=False)
        again.resume(out / f"checkpoint.{age}.pt")
        assert again.iteration == 4 - age
        again.run()
        assert_same_run(out, folder / f"{variant}{age}")


def killed_often(folder, kills: int, seed: int) -> None:
    draw = random.Random(seed)
    settings = EVERYTHING | {"name": "rpn_r50_mlc", "run__save_every": 2, "mlc__start_epoch": 2.5}
    epochs = kills + 2
    whole, often = folder / f"whole{kills}", folder / f"killed{kills}"
    finish(start(folder, "--epochs", epochs, "--out", whole.name, **settings))
    steps, seen = 2 * epochs, 0
    for _ in range(kills):
        process = start(folder, "--epochs", epochs, "--out", often.name, "--resume", "auto", **settings)
        seen = min(draw.randint(seen + 1, seen + 3), steps - 2)
        wait_until(process, lambda: reached(often, seen))  # noqa: B023
        time.sleep(draw.uniform(0, 0.3))  # in a step, in a checkpoint's writing, wherever
        os.kill(process.pid, signal.SIGKILL)
        code, _, _ = finish(process)
        assert code == -signal.SIGKILL
    arguments = ("--epochs", epochs, "--out", often.name, "--resume", "auto")
    code, out, error = finish(start(folder, *arguments, **settings))
    assert code == 0, error
    assert_same_run(whole, often)
    assert [entry["iteration"] for entry in losses(often)] == list(range(1, steps + 1))
    assert not list(often.glob(".*"))  # nothing half written is left


def test_two_kills(folder):
    killed_often(folder, 2, seed=0)


@pytest.mark.slow
def test_ten_kills(folder):
    killed_often(folder, 10, seed=1)


@pytest.fixture(scope="module")
def finished(folder):
    """A finished run of four iterations with three checkpoints."""
    before = os.getcwd()
    os.chdir(folder)
    Trainer(config_of("fcos_minus_r50_mlc", folder / "finished", run__save_every=1), progress=False).run()
    os.chdir(before)
    return folder / "finished"


def copied(finished, name):
    out = finished.parent / name
    out.mkdir()
    for path in finished.glob("checkpoint*.pt"):
        (out / path.name).write_bytes(path.read_bytes())
    return out


def program(capsys, *arguments, **settings):
    return train_here(capsys, "--epochs", "2", *arguments, **settings)


def test_the_last_few_are_kept(finished):
    kept = {path.name: load_checkpoint(path)["iteration"] for path in finished.glob("checkpoint*.pt")}
    assert kept == {"checkpoint.pt": 4, "checkpoint.1.pt": 3, "checkpoint.2.pt": 2}


@pytest.mark.parametrize("damage", ["truncated", "foreign", "missing"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_used(finished, capsys, damage):
    out = copied(finished, damage)
    newest = out / "checkpoint.pt"
    if damage == "truncated":
        newest.write_bytes(newest.read_bytes()[:-1000])
    elif damage == "foreign":
        torch.save({"state_dict": {}}, newest)
    else:
        newest.unlink()
    code, reported, error = program(capsys, "--out", out, "--resume", "auto")
    assert code == 0 and f"resumed from {out / 'checkpoint.1.pt'}" in reported
    assert (f"{newest} is no" in error and "trying the one before" in error) == (damage != "missing")
    assert_same_run(finished, out)


def test_none_usable_none_there(finished, capsys):
    out = copied(finished, "spoilt")
    for path in out.glob("checkpoint*.pt"):
        path.write_text("spoilt")
    code, _, error = program(capsys, "--out", out, "--resume", "auto")
    assert code == 2 and f"none of the 3 checkpoints in {out} can be used" in error
    assert (out / "checkpoint.pt").read_text() == "spoilt"
    assert load_newest(out.parent / "nowhere", print) is None


def test_auto_without_a_checkpoint_begins(finished, capsys):
    code, reported, _ = program(capsys, "--out", finished.parent / "begun", "--resume", "auto")
    assert code == 0 and f"nothing to resume in {finished.parent / 'begun'}" in reported
    assert_same_run(finished, finished.parent / "begun")


def test_a_checkpoint_with_former_names_of_settings(finished, capsys):
    """It resumes, and the log reports the new name of the setting once."""
    report_renamed.cache_clear()
    out = finished.parent / "former"
    state = load_checkpoint(finished / "checkpoint.2.pt")
    for old, new in RENAMED.items():
        (section, before), (_, after) = old.split("."), new.split(".")
        state["config"][section][before] = state["config"][section].pop(after)
    save_checkpoint(out.parent / "former.pt", {key: state[key] for key in state if key != "format"})
    names = {old: False for old in RENAMED}  # --set is parsed before the run has its log
    code, _, error = program(capsys, "--out", out, "--resume", out.parent / "former.pt", **names)
    assert code == 0, error
    assert_same_run(finished, out)
    log = (out / "log.txt").read_text()
    assert all(log.count(f"setting {old} is called {new} now") == 1 for old, new in RENAMED.items())


def test_a_finished_run_is_evaluated_again(finished, capsys):
    out = copied(finished, "again")
    code, _, _ = program(capsys, "--out", out, "--resume", "auto")
    assert code == 0
    assert_same(losses(out), losses(finished))
    metrics = [json.loads((folder / "metrics.json").read_text())["metrics"] for folder in (out, finished)]
    assert metrics[0] == pytest.approx(metrics[1], abs=0, nan_ok=True)


@pytest.mark.parametrize(
    ("setting", "value", "reported"),
    [
        ("schedule.lr", 0.5, "schedule.lr was 0.001, is 0.5"),
        ("model.norm", "bn", "model.norm was 'fixed', is 'bn'"),
        ("mlc.gamma", 2, "mlc.gamma was 1.0, is 2.0"),
        ("data.flip", 0, "data.flip was 0.5, is 0.0"),
        ("schedule.ema", 0.9, "schedule.ema was None, is 0.9"),
        ("run.seed", 3, "run.seed was 0, is 3"),
    ],
)
def test_another_run_is_refused(finished, capsys, setting, value, reported):
    before = (finished / "checkpoint.pt").read_bytes()
    code, _, error = program(
        capsys, "--out", finished.parent / "refused", "--resume", finished / "checkpoint.pt", **{setting: value}
    )
    assert (
        code == 2 and f"checkpoint.pt is of a run with other settings: {reported} (" in error and "\n" not in error[:-1]
    )
    assert (finished / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("setting", ["schedule.lr", "run.seed"])
def test_a_refused_resume_leaves_the_files_of_the_run(finished, capsys, setting):
    """All of them: only the log grows, by the error."""
    value = {"schedule.lr": 0.5, "run.seed": 3}[setting]

    def files():  # the lock is this process's until it ends
        return {path.name: path.read_bytes() for path in finished.iterdir() if path.name != ".lock"}

    before = files()
    code, _, _ = program(capsys, "--out", finished, "--resume", "auto", **{setting: value})
    assert code == 2
    after = files()
    assert after.pop("log.txt").startswith(before.pop("log.txt")) and after == before


def test_where_and_how_it_is_computed_may_change(finished, capsys):
    settings = {"run.log_every": 3, "run.keep_checkpoints": 1, "data.workers": 1}
    out = finished.parent / "moved"
    code, _, error = program(capsys, "--out", out, "--resume", finished / "checkpoint.2.pt", **settings)
    assert code == 0, error
    assert [entry["iteration"] for entry in losses(out)] == [1, 2, 3, 4]
    assert [path.name for path in out.glob("*.pt")] == ["checkpoint.pt"]


def test_an_allowed_change(finished, capsys):
    out = finished.parent / "allowed"
    arguments = ("--out", out, "--resume", finished / "checkpoint.pt", "--allow-change", "schedule.epochs")
    code, _, error = program(capsys, *arguments, "--epochs", "3")
    assert code == 0, error
    assert [entry["iteration"] for entry in losses(out)] == [1, 2, 3, 4, 5, 6]


def test_an_allowed_change_of_the_rate_is_followed(finished, capsys):
    """The optimizer's own record of it must not come back with its momenta."""
    out = finished.parent / "faster"
    allowed = ("--allow-change", "schedule.epochs", "--allow-change", "schedule.lr")
    arguments = ("--out", out, "--resume", finished / "checkpoint.pt", *allowed)
    code, _, error = program(capsys, *arguments, "--epochs", "3", **{"schedule.lr": 0.5})
    assert code == 0, error
    before, after = (losses(out)[iteration]["lr"] for iteration in (3, 4))
    assert after > 20 * before


@pytest.mark.parametrize("until", [2, 3])
def test_others_go_on_from_a_first_part(finished, until):
    """Stopped at the end of an epoch and within one: what goes on elsewhere ends as the run that never stopped."""
    first, out = finished.parent / f"first{until}", finished.parent / f"branch{until}"
    one = json.loads((finished / "config.json").read_text())
    configs = [override(from_dict(one), "run.out", str(folder)) for folder in (first, out)]
    assert Trainer(configs[0], progress=False).run(until) == {}
    assert load_checkpoint(first / "checkpoint.pt")["iteration"] == until and not (first / "metrics.json").exists()
    branch = Trainer(configs[1], progress=False)
    branch.resume(first / "checkpoint.pt")
    branch.run()
    assert_same_run(finished, out)
    assert load_checkpoint(first / "checkpoint.pt")["iteration"] == until


def test_a_new_run_puts_an_old_ones_checkpoints_aside(finished):
    out = copied(finished, "reused")
    config = override(config_of("fcos_minus_r50_mlc", out, epochs=1), "schedule.lr", 0.002)
    Trainer(config, progress=False).run()
    assert [path.name for path in out.glob("*.pt")] == ["checkpoint.pt"]
    assert load_checkpoint(out / "checkpoint.pt")["iteration"] == 2
    assert load_checkpoint(out / "earlier" / "checkpoint.pt")["iteration"] == 4


def state(iteration):
    return {"model": {}, "config": {}, "num_classes": 1, "iteration": iteration}


@pytest.mark.parametrize("links", [True, False])
def test_rotation(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    path = tmp_path / "checkpoint.pt"

    def found():
        return {p.name: load_checkpoint(p)["iteration"] for p in sorted(tmp_path.iterdir())}

    for iteration in range(1, 6):
        save_checkpoint(path, state(iteration), keep=3)
    assert found() == {"checkpoint.1.pt": 4, "checkpoint.2.pt": 3, "checkpoint.pt": 5}
    save_checkpoint(path, state(5) | {"history": [1]})
    assert found() == {"checkpoint.1.pt": 4, "checkpoint.2.pt": 3, "checkpoint.pt": 5}
    save_checkpoint(path, state(6), keep=2)
    assert found() == {"checkpoint.1.pt": 5, "checkpoint.pt": 6}
    save_checkpoint(path, state(7), keep=1)
    assert found() == {"checkpoint.pt": 7}


def test_a_kill_at_any_moment_of_a_save_leaves_the_old_or_the_new(tmp_path, monkeypatch):
    """Every call that changes the folder is the last one in turn."""
    path = tmp_path / "checkpoint.pt"
    for last in range(6):
        for old in tmp_path.iterdir():
            old.unlink()
        for iteration in (1, 2, 3):
            save_checkpoint(path, state(iteration), keep=3)
        calls = []

        def dying(name, calls=calls, last=last):
            real = getattr(os, name)

            def call(*arguments):
                if len(calls) == last:
                    raise KeyboardInterrupt  # as little as a kill does it let anything be mended
                calls.append(name)
                return real(*arguments)

            return call

        with monkeypatch.context() as patch:
            for name in ("replace", "link"):
                patch.setattr(os, name, dying(name))
            if last < 3:
                with pytest.raises(KeyboardInterrupt):
                    save_checkpoint(path, state(4), keep=3)
            else:
                save_checkpoint(path, state(4), keep=3)
        assert load_checkpoint(path)["iteration"] == (3 if last < 3 else 4)
        assert load_newest(tmp_path, pytest.fail)[0] == path


def test_tidy_and_set_aside(tmp_path):
    for name in (".checkpoint.pt.123", "checkpoint.pt", "checkpoint.1.pt", "checkpoint_best.pt", "other.pt"):
        (tmp_path / name).write_text(name)
    tidy(tmp_path)
    set_aside(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint_best.pt", "earlier", "other.pt"]
    assert sorted(p.name for p in (tmp_path / "earlier").iterdir()) == ["checkpoint.1.pt", "checkpoint.pt"]
