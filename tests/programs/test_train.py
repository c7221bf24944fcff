"""detectors/train.py and evaluate.py as programs: what they print, write, refuse, and how they stop and go on."""

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from small_runs import DETECTORS, assert_same, finish, reached, start, train_here, wait_until

from mlc_ext.detectors.config.overrides import from_dict
from mlc_ext.detectors.engine.train_step import Stepper
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.runs.checkpoint import load_checkpoint, save_checkpoint
from mlc_ext.detectors.train import configuration, main, parse

IMAGES = {"data.generated_images": 16}
"""Four steps an epoch."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory of its own, where the generated data are made once."""
    return tmp_path_factory.mktemp("train")


def rows(table):
    """A printed report as {row: {heading: cell}}."""
    lines = table.splitlines()
    at = next(i for i, line in enumerate(lines) if line.split()[:2] == ["AP", "AP50"])
    heads = lines[at].split()
    found = {}
    for line in itertools.takewhile(str.strip, lines[at + 1 :]):
        cells = line.split()
        found[" ".join(cells[: -len(heads)])] = dict(zip(heads, cells[-len(heads) :], strict=True))
    return found


def as_printed(metrics):
    shown = {"AP": metrics["AP"], "AP50": metrics["AP50"], "AP75": metrics["AP75"], "corr(gt)": metrics["correlation"]}
    return {
        key: "-" if math.isnan(v) else f"{100 * v:.1f}" if key.startswith("AP") else f"{v:.3f}"
        for key, v in shown.items()
    }


@pytest.fixture(scope="module")
def compared(folder):
    """--compare for an epoch, mutual labeling on after half of it: what most tests look at."""
    arguments = ("--compare", "--epochs", "1", "--out", "compared")
    code, out, error = finish(start(folder, *arguments, name="demo", **IMAGES))
    assert code == 0, error
    return out


def test_compare_prints_both_rows_and_says_where_things_are(folder, compared):
    table = rows(compared)
    assert list(table) == ["baseline", "MLC"]
    headings = ["baseline until the method starts: compared/baseline", "MLC: compared/MLC"]
    assert [line for line in compared.splitlines() if ": compared/" in line][:3] == [
        *headings,
        "baseline, continued: compared/baseline",
    ]
    assert "16 images" in compared and "3 categories" in compared
    report = f"python {DETECTORS / 'report.py'} compared/baseline compared/MLC"
    assert compared.splitlines()[-2:] == ["results: compared/baseline, compared/MLC", f"next: {report}"]
    for name, row in table.items():
        metrics = json.loads((folder / "compared" / name / "metrics.json").read_text())["metrics"]
        assert {key: row[key] for key in as_printed(metrics)} == as_printed(metrics)


def test_seeds(folder):
    """Every row is a run of its own; the second table has their means and paired differences."""
    arguments = ("--compare", "--seeds", "2", "--seed", "3", "--epochs", "1", "--out", "seeds")
    code, out, error = finish(start(folder, *arguments, name="demo", **IMAGES))
    assert code == 0, error
    names = [f"{name}, seed {seed}" for seed in (3, 4) for name in ("baseline", "MLC")]
    assert list(rows(out)) == names
    folders = [f"seeds/seed{seed}/{name}" for seed in (3, 4) for name in ("baseline", "MLC")]
    for path, name in zip(folders, names, strict=True):
        config = json.loads((folder / path / "config.json").read_text())
        assert config["run"]["seed"] == int(name[-1]) and config["mlc"]["ml"] == name.startswith("MLC")
    table = out[out.index("2 seeds, mean +- standard deviation") :].splitlines()
    assert [line.split("  ")[0] for line in table[2:5]] == ["baseline", "MLC", "MLC - baseline"]
    assert out.splitlines()[-2] == f"results: {', '.join(folders)}"


@pytest.mark.parametrize("name", ["baseline", "MLC"])
def test_files_of_a_run(folder, compared, name):
    run = folder / "compared" / name
    files = ["checkpoint.1.pt", "checkpoint.pt", "config.json", "log.txt", "metrics.json", "metrics.jsonl"]
    assert sorted(p.name for p in run.iterdir()) == files  # the older checkpoint: where the method starts
    result = json.loads((run / "metrics.json").read_text())
    assert [json.loads(line)["iteration"] for line in open(run / "metrics.jsonl")] == [1, 2, 3, 4, 4]
    assert result["iteration"] == 4 and {"AP", "AP50", "APl", "correlation_pooled"} <= set(result["metrics"])
    steps = [entry for entry in result["history"] if "loss" in entry]
    assert [entry["iteration"] for entry in steps] == [1, 2, 3, 4]
    assert [entry["mutual"] for entry in steps] == [False, False, name == "MLC", name == "MLC"]
    assert ["iou_rescoring" in entry for entry in steps] == [False, False, name == "MLC", name == "MLC"]
    assert all(entry["loss"] > 0 and entry["lr"] > 0 and entry["images_per_second"] > 0 for entry in steps)
    for entry in steps:
        parts = [entry[k] for k in ("classification", "bbox_regression", "iou_rescoring") if k in entry]
        assert entry["loss"] == pytest.approx(sum(parts), rel=1e-5)
    config = from_dict(json.loads((run / "config.json").read_text()))
    assert config.mlc.ml == config.mlc.iur == (name == "MLC") and config.schedule.epochs == 1
    state = load_checkpoint(run / "checkpoint.pt")
    assert state["iteration"] == 4 and state["num_classes"] == len(state["categories"]) == 3
    assert from_dict(state["config"]) == config
    assert "evaluation at iteration 4" in (run / "log.txt").read_text()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"schedule.ema": 0.9, "run.eval_every": 1, "run.best_metric": "AP", "mlc.start_epoch": 1},
        pytest.param({"schedule.optimizer": "sgd", "model.detector": "retinanet"}, marks=pytest.mark.slow),
    ],
)
def test_a_shared_first_part_changes_nothing(tmp_path, program, settings):
    """--compare trains what comes before the method once; both runs end as if they had been trained alone."""
    arguments = ("--epochs", "2", "--no-iur", "--out")
    code, out, error = program(*arguments, tmp_path / "both", "--compare", **settings)
    assert code == 0, error
    assert f"baseline until the method starts: {tmp_path}/both/baseline\n" in out
    for name, switches in (("baseline", ("--no-ml",)), (out.splitlines()[-1].rsplit("/")[-1], ())):
        assert program(*arguments, tmp_path / name, *switches, **settings)[0] == 0
        folders = tmp_path / name, tmp_path / "both" / name
        alone, shared = (load_checkpoint(folder / "checkpoint.pt") for folder in folders)
        for key in ("model", "optimizer", "ema", "iteration", "loader"):
            assert_same(alone[key], shared[key], key)
        alone, shared = ([entry | {"images_per_second": 0} for entry in each["history"]] for each in (alone, shared))
        assert str(alone) == str(shared)  # with NaN
        if (folders[0] / "best.pt").exists():
            alone, shared = (load_checkpoint(folder / "best.pt") for folder in folders)
            assert_same(alone["model"], shared["model"])
            assert alone["iteration"] == shared["iteration"]
        alone, shared = ({path.name for path in folder.iterdir()} for folder in folders)
        assert alone <= shared <= alone | {"checkpoint.1.pt"}


def test_a_finished_baseline_continues_with_the_method(tmp_path, program):
    """The command of docs/training.md."""
    baseline = tmp_path / "baseline"
    assert program("--no-ml", "--no-iur", "--epochs", "1", "--out", baseline)[0] == 0
    arguments = ["--config", baseline / "config.json", "--resume", baseline / "checkpoint.pt", "--epochs", "2"]
    for name in ("mlc.ml", "mlc.iur", "mlc.start_epoch", "schedule.epochs"):
        arguments += ["--allow-change", name]
    on = {"mlc.ml": "true", "mlc.iur": "true", "mlc.start_epoch": 1.25}
    code, _, error = program(*arguments, "--out", tmp_path / "MLC", **on)
    assert code == 0, error
    entries = [entry for entry in load_checkpoint(tmp_path / "MLC" / "checkpoint.pt")["history"] if "loss" in entry]
    assert [entry["mutual"] for entry in entries] == [False] * 5 + [True] * 3
    assert [entry.get("iou_rescoring", 0) > 0 for entry in entries] == [False] * 5 + [True] * 3
    added = "not in the checkpoint, initialized as in a new run with this seed: head.iou_logits.weight, head.iou_logits"
    assert added in (tmp_path / "MLC" / "log.txt").read_text()


@pytest.mark.parametrize(("optimizer", "state"), [("adamw", "exp_avg"), ("sgd", "momentum_buffer")])
def test_the_iou_layer_of_a_comparison_starts_with_the_method(tmp_path, program, optimizer, state):
    """The baseline has none: the method's run adds it, with the weights that a run of the seed starts with and a state
    of the optimizer of its own, and keeps the optimizer's state of all others."""
    settings = {"schedule.optimizer": optimizer, "schedule.ema": 0.9, "mlc.start_epoch": 0.75, "mlc.gamma": 1e-9}
    code, _, error = program("--epochs", "1", "--out", tmp_path / "both", "--compare", **settings)
    assert code == 0, error
    code, _, error = program("--epochs", "1", "--out", tmp_path / "MLC", **settings)
    assert code == 0, error
    alone, shared = (
        load_checkpoint(folder / "checkpoint.pt") for folder in (tmp_path / "MLC", tmp_path / "both" / "MLC")
    )
    for part in (shared["model"], shared["ema"]["weights"]):
        assert part.keys() == alone["model"].keys() and any(".iou_logits." in name for name in part)
    moments = [{n: values[state] for n, values in each["optimizer"]["state"].items()} for each in (alone, shared)]
    assert moments[0].keys() == moments[1].keys()
    for n, moment in ((n, moment) for n, moment in moments[0].items() if len(moment) > 1):  # not of the IoU layer
        torch.testing.assert_close(moments[1][n], moment, rtol=1e-3, atol=1e-6)
    baseline = load_checkpoint(tmp_path / "both" / "baseline" / "checkpoint.pt")
    assert not any(".iou_logits." in name for name in baseline["model"])
    added = load_checkpoint(tmp_path / "both" / "MLC" / "checkpoint.1.pt")  # written as the method's run begins
    assert added["iteration"] == 3
    first = Trainer(from_dict(added["config"])).model.state_dict()
    for name in (name for name in first if ".iou_logits." in name):
        assert torch.equal(added["model"][name], first[name])
    if optimizer == "adamw":
        steps = {float(values["step"]) for values in shared["optimizer"]["state"].values()}
        assert steps == {4.0, 1.0}  # of the detector, and of the IoU layer


def test_evaluate_gives_the_runs_metrics(folder, compared):
    code, out, error = finish(start(folder, "compared/MLC/checkpoint.pt", "--device", "cpu", program="evaluate.py"))
    assert code == 0, error
    assert rows(out)[""] == rows(compared)["MLC"]
    (kept,) = (folder / "compared" / "MLC" / "evaluations").iterdir()
    program = DETECTORS / "report.py"
    assert out.splitlines()[-3:] == [
        "", f"kept for the next time: {kept.relative_to(folder)}", f"next: python {program} compared/MLC"
    ]  # fmt: skip


def test_evaluate_with_other_settings_and_results(folder, compared):
    """IoU-NMS keeps as many boxes' places but other scores; a setting that does not fit is reported in a line."""
    state = load_checkpoint(folder / "compared" / "MLC" / "checkpoint.pt")
    state["model"]["head.cls_logits.bias"] += 5  # it is sure of all it sees
    save_checkpoint(folder / "sure.pt", {key: state[key] for key in state if key != "format"})
    checkpoint = ("sure.pt", "--device", "cpu")
    for name, more in (("found.json", ()), ("by_iou.json", ("--set", "model.nms=iou"))):
        code, out, error = finish(start(folder, *checkpoint, "--results", name, *more, program="evaluate.py"))
        assert code == 0, error
        assert out.splitlines()[-1] == f"detections: {name}"
    found, by_iou = (json.loads((folder / name).read_text()) for name in ("found.json", "by_iou.json"))
    assert found and found[0].keys() == {"image_id", "category_id", "bbox", "score"} and found != by_iou
    code, _, error = finish(start(folder, *checkpoint, "--set", "model.nms", program="evaluate.py"))
    assert (code, error) == (2, "evaluate.py: --set must be KEY=VALUE, got 'model.nms'\n")


def test_evaluate_refuses_what_is_no_checkpoint(folder):
    (folder / "foreign.pt").write_text("not a checkpoint")
    code, out, error = finish(start(folder, "foreign.pt", program="evaluate.py"))
    assert code == 2 and out == "" and error.startswith("evaluate.py: foreign.pt is no readable checkpoint")


@pytest.fixture
def program(in_folder, capsys):
    """train.py in this process: arguments -> exit code, stdout, stderr."""
    return lambda *arguments, **settings: train_here(capsys, *arguments, name="demo", **IMAGES, **settings)


def test_interrupted_and_resumed_equals_uninterrupted(folder, compared, program):
    """Ctrl-C in the middle of an epoch; mutual labeling begins after the resumption."""
    settings = {"run.correlation": "false", "mlc.start_epoch": 1.25}
    arguments = ("--epochs", "2")
    process = start(folder, *arguments, "--out", "stopped", name="demo", **IMAGES, **settings)
    wait_until(process, lambda: reached(folder / "stopped", 1))
    process.send_signal(signal.SIGINT)
    code, _, error = finish(process)
    stopped_at = load_checkpoint(folder / "stopped" / "checkpoint.pt")["iteration"]
    assert code == 130 and 1 <= stopped_at <= 8  # on a busy machine the signal may come late
    assert error.strip() == f"interrupted: stopped/checkpoint.pt holds iteration {stopped_at} of 8"
    assert not (folder / "stopped" / "metrics.json").exists()

    resume = ("--resume", "stopped/checkpoint.pt", "--out", "resumed")
    code, out, error = program(*arguments, *resume, **settings)
    assert code == 0, error
    code, whole_out, error = program(*arguments, "--out", "whole", **settings)
    assert code == 0, error
    whole, resumed = (load_checkpoint(folder / name / "checkpoint.pt") for name in ("whole", "resumed"))
    for key in ("model", "optimizer", "iteration", "loader"):
        assert_same(whole[key], resumed[key], key)
    assert rows(out) == rows(whole_out)

    def losses(state):
        return [(e["iteration"], e["lr"], e["mutual"], e["loss"]) for e in state["history"] if "loss" in e]

    assert losses(resumed) == losses(whole) and [row[2] for row in losses(whole)] == [False] * 5 + [True] * 3


def at_iteration(monkeypatch, iteration, act):
    """Calls ``act`` within the training step that makes it iteration ``iteration``, after the optimizer's step."""
    step = Stepper.step

    def wrapped(self, before, *batch):
        losses = step(self, before, *batch)
        if before + 1 == iteration:
            act()
        return losses

    monkeypatch.setattr(Stepper, "step", wrapped)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_run_after_the_step(folder, compared, program, monkeypatch, number):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    at_iteration(monkeypatch, 3, lambda: os.kill(os.getpid(), number))
    code, _, error = program("--epochs", "9", "--out", f"signal{number}")
    assert code == 130 and "checkpoint.pt holds iteration 3 of 36" in error
    state = load_checkpoint(folder / f"signal{number}" / "checkpoint.pt")
    assert state["iteration"] == state["loader"]["position"] == 3
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_signal_quits_at_once_and_leaves_the_old_checkpoint(folder, compared, program, monkeypatch):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_iteration(monkeypatch, 2, twice)
    code, _, error = program("--epochs", "9", "--out", "twice")
    assert code == 130 and error == "" and not (folder / "twice" / "checkpoint.pt").exists()


def test_a_signal_during_the_last_evaluation_keeps_the_weights(folder, compared, program, monkeypatch):
    interrupted = "mlc_ext.detectors.engine.validation.evaluate"
    monkeypatch.setattr(interrupted, lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    code, _, error = program("--epochs", "1", "--out", "evaluating")
    assert code == 130 and "holds iteration 4 of 4" in error
    assert load_checkpoint(folder / "evaluating" / "checkpoint.pt")["iteration"] == 4


def test_a_loss_that_is_not_finite_ends_the_run_with_the_image_ids(folder, compared, program, monkeypatch):
    def losses(self, *_):
        return {"classification": next(self.parameters()).sum() * float("nan")}

    monkeypatch.setattr("mlc_ext.detectors.models.fcos.FCOS.losses", losses)
    code, _, error = program("--epochs", "1", "--out", "nan")
    assert code == 1 and re.search(r"loss is not finite at iteration 1: .*nan.*; images \[\d+", error)
    assert not (folder / "nan" / "checkpoint.pt").exists()


def test_a_bug_is_no_usage_error(folder, compared, program, monkeypatch):
    monkeypatch.setattr("mlc_ext.detectors.models.fcos.FCOS.losses", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):  # Python's own traceback, and exit code 1
        program("--epochs", "1", "--out", "bug")


def test_an_error_of_a_loaders_worker_is_reported_in_a_line(folder, compared, program, monkeypatch):
    def spoilt(*_):
        raise OSError("image 7 is spoilt")

    monkeypatch.setattr("mlc_ext.detectors.data.coco.dataset.CocoDetection.__getitem__", spoilt)
    code, _, error = program("--epochs", "1", "--out", "worker", **{"data.workers": 1})
    assert code == 2 and error == "train.py: image 7 is spoilt\n"
    assert "Traceback" in (folder / "worker" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (["--set", "schedule.epoch=3"], {}, "unknown setting 'schedule.epoch'; did you mean 'schedule.epochs'?"),
        (["--set", "schedule.lr"], {}, "--set must be KEY=VALUE, got 'schedule.lr'"),
        (["--set", "schedule.lr=fast"], {}, "schedule.lr must be float, got 'fast'"),
        (["--epochs", "0"], {}, "schedule.epochs must be in 1..1000000, got 0"),
        (["--epochs", "-3"], {}, "schedule.epochs must be in 1..1000000, got -3"),
        (["--batch-size", "0"], {}, "schedule.batch_size must be in 1..1000000, got 0"),
        (["--preset", "huge"], {}, "unknown preset 'huge' (train --help lists them)"),
        (["--epochs", "0"], {}, "schedule.epochs must be in 1..1000000, got 0"),
        (["--epochs", "-3"], {}, "schedule.epochs must be in 1..1000000, got -3"),
        (["--batch-size", "0"], {}, "schedule.batch_size must be in 1..1000000, got 0"),
        (["--compare", "--resume", "x.pt"], {}, "--compare starts several runs, --resume continues one"),
        (["--seeds", "2", "--resume", "x.pt"], {}, "--seeds starts several runs, --resume continues one"),
        (["--seeds", "0"], {}, "--seeds must be at least 1, got 0"),
        (["--resume", "x.pt"], {}, "no checkpoint x.pt"),
        (["--data", "nowhere"], {}, "data set not found; looked for"),
        ([], {"run.device": "tpu"}, "device must be cpu, cuda, cuda:N or auto, got 'tpu'"),
        ([], {"run.device": "cuda:99"}, "device 'cuda:99': torch sees"),
        ([], {"model.backbone": "resnet7"}, "model.backbone must be one of"),
        ([], {"model.detector": "yolo"}, "got 'yolo'"),
        ([], {"model.weights": "absent.pth"}, "absent.pth"),
        ([], {"model.fpn_channels": 40}, "'gn' needs in_channels to be a multiple of 32, got 40"),
        ([], {"schedule.optimizer": "lion"}, "schedule.optimizer must be one of 'sgd', 'adamw', got 'lion'"),
        ([], {"mlc.alpha": -1}, "alpha must not be negative, got -1.0"),
    ],
)
def test_mistakes_are_reported_in_a_line(compared, program, arguments, settings, message):
    code, _, error = program(*arguments, **settings)
    assert code == 2
    assert error.startswith("train.py: ") and message in error and "Traceback" not in error


def test_resuming_with_another_model_or_other_data_is_refused(folder, compared, program):
    resume = ("--resume", "compared/MLC/checkpoint.pt")
    same = {"schedule.epochs": 1, "mlc.start_epoch": 0.5}
    code, _, error = program(*resume, **same, **{"model.num_convs": 2})
    assert code == 2 and "checkpoint.pt is of a run with other settings: model.num_convs was 1, is 2" in error
    code, _, error = program(*resume, "--allow-change", "model.num_convs", **same, **{"model.num_convs": 2})
    assert code == 2 and "compared/MLC/checkpoint.pt does not fit this configuration: " in error
    code, _, error = program(*resume, "--allow-change", "model.frozen_stages", **same, **{"model.frozen_stages": 2})
    assert code == 2 and "its optimizer has " in error and "this configuration trains " in error
    code, _, error = program(*resume, **same, **{"schedule.batch_size": 8})
    assert code == 2 and "batch_size was 4, is 8" in error
    code, _, error = program(*resume, "--allow-change", "schedule.batchsize")
    assert code == 2 and "unknown setting 'schedule.batchsize'; did you mean 'schedule.batch_size'?" in error
    state = load_checkpoint(folder / "compared" / "MLC" / "checkpoint.pt")
    save_checkpoint(folder / "weights.pt", {k: v for k, v in state.items() if k != "optimizer"})
    code, _, error = program("--resume", "weights.pt")
    assert code == 2 and "weights.pt holds no optimizer state to resume from" in error
    save_checkpoint(folder / "other.pt", {**state, "num_classes": 80})
    code, _, error = program("--resume", "other.pt")
    assert code == 2 and "other.pt was trained on 80 classes, the data have 3" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch-count", "3"], "unrecognized arguments: --epoch-count"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
    ],
)
def test_bad_options_end_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(arguments)
    assert exit_.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "late"),
    [
        (["--set", "schedule.epochs=12"], "mutual labeling (from epoch 12), IoU rescoring (from epoch 12)"),
        (["--no-ml", "--set", "schedule.epochs=3"], "IoU rescoring (from epoch 12)"),
        (["--no-iur", "--set", "mlc.start_epoch=24"], "mutual labeling (from epoch 24)"),
        (["--epochs", "3"], None),
        (["--no-ml", "--no-iur", "--set", "schedule.epochs=3"], None),
    ],
)
def test_a_method_that_does_not_start_is_a_warning(arguments, late, caplog, in_folder):
    assert main(["--preset", "fcos_minus_r50_mlc", *arguments, "--data", "missing"]) == 2
    assert f"before the start of {late}: " in caplog.text if late else "before the start" not in caplog.text


def test_help_mentions_every_option(folder):
    code, out, _ = finish(subprocess.Popen(
        [sys.executable, str(DETECTORS / "train.py"), "--help"], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ))  # fmt: skip
    assert code == 0
    options = set(re.findall(r"--[a-z-]+", out))
    named = {f"--{name.replace('_', '-')}" for name in vars(parse([]))}
    assert named <= options
    for line in re.findall(r"^  (--[a-z-]+.*(?:\n {10,}.*)*)", out, flags=re.MULTILINE):
        words = re.sub(r"--[a-z-]+( [A-Z=]+| \{[^}]*\})?", "", line).split()
        assert len(words) >= 2, f"no help text: {line}"


def test_options_become_settings():
    arguments = ["--data", "D", "--epochs", "38", "--batch-size", "3", "--seed", "5", "--device", "cpu", "--out", "O"]
    config = configuration(parse([*arguments, "--no-ml", "--set", "mlc.gamma=2"]))
    assert (config.data.data, config.schedule.batch_size, config.run.seed) == ("D", 3, 5)
    assert (config.run.device, config.run.out, config.schedule.epochs) == ("cpu", "O", 38)
    assert config.mlc.start_epoch == pytest.approx(19)  # as 12 of 24
    assert (config.mlc.ml, config.mlc.iur, config.mlc.gamma) == (False, True, 2.0)
    assert not configuration(parse(["--no-iur"])).mlc.iur
    late = configuration(parse(["--epochs", "10", "--set", "mlc.start_epoch=9"]))
    assert late.mlc.start_epoch == 9
