"""train.py --init: what a run starts from, what it prints and refuses, resuming, averages, several processes."""

from __future__ import annotations

import json

import pytest
import torch
from small_runs import TINY, config_of, finish, start, train_here

from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.runs.checkpoint import load_checkpoint
from mlc_ext.detectors.runs.load import trained_config

pytestmark = pytest.mark.usefixtures("in_folder")

BACKBONE = TINY["model.backbone"]
ONE_STEP = {"schedule__lr": 1e-12, "schedule__weight_decay": 0, "schedule__bias_weight_decay": 0, "epochs": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("init")


@pytest.fixture(scope="module")
def first(folder):
    """A run, to start others from."""
    Trainer(config_of("fcos_minus_r50_mlc", folder / "first"), progress=False).run()
    return folder / "first"


@pytest.fixture(scope="module")
def resnet(folder):
    """The first part of a run with the backbone that has styles."""
    config = config_of("fcos_minus_r50_mlc", folder / "resnet", model__backbone="resnet18")
    Trainer(config, progress=False).run(until=1)
    return folder / "resnet"


def options(out, init, **settings):
    config = config_of("fcos_minus_r50_mlc", out, epochs=settings.pop("epochs", 2), **settings)
    return override(config, "model.init", str(init))


@pytest.mark.parametrize("as_file", [False, True])
def test_the_weights_of_a_run(folder, first, as_file):
    out = folder / f"again{as_file}"
    init = first / "checkpoint.pt" if as_file else first
    trainer = Trainer(options(out, init, **ONE_STEP), progress=False)
    expected = load_checkpoint(first / "checkpoint.pt")["model"]
    count = sum(not name.endswith("num_batches_tracked") for name in expected)
    assert f"{count} of {count} tensors are taken" in (table := trainer.start_from_init())
    assert trainer.start_from_init() is None  # once
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    trainer.run()
    for name, tensor in load_checkpoint(out / "checkpoint.pt")["model"].items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0)
    assert json.loads((out / "config.json").read_text())["model"]["init"] == str(init)
    assert table in (out / "log.txt").read_text()


def test_run_alone_starts_too(folder, first):
    trainer = Trainer(options(folder / "alone", first, **ONE_STEP), progress=False)
    trainer.run()
    expected = load_checkpoint(first / "checkpoint.pt")["model"]
    torch.testing.assert_close(trainer.model.state_dict()["fpn.fpn_convs.0.weight"], expected["fpn.fpn_convs.0.weight"])


def test_averages_start_from_it(folder, first):
    trainer = Trainer(options(folder / "ema", first, schedule__ema=0.9), progress=False)
    trainer.start_from_init()
    for name, tensor in trainer.stepper.average.model.state_dict().items():
        assert torch.equal(tensor, trainer.model.state_dict()[name]), name


def test_averages_are_taken(folder):
    """A run with averages gives these, not the weights of its last step."""
    config = config_of("fcos_minus_r50_mlc", folder / "averaged", schedule__ema=0.9)
    Trainer(config, progress=False).run()
    trainer = Trainer(options(folder / "from_averages", folder / "averaged"), progress=False)
    trainer.start_from_init()
    state, found = load_checkpoint(folder / "averaged" / "checkpoint.pt"), trainer.model.state_dict()
    name = "fpn.fpn_convs.0.weight"
    assert torch.equal(found[name], state["ema"]["weights"][name]) and not torch.equal(
        found[name], state["model"][name]
    )


def test_a_resumed_run_does_not_start_again(folder, first):
    """Nor does it need the file any more. Its end is that of the run that was not stopped."""
    settings = {"run__save_every": 1, "run__keep_checkpoints": 9}
    init = folder / "copy.pt"
    init.write_bytes((first / "checkpoint.pt").read_bytes())
    Trainer(options(folder / "whole", init, **settings), progress=False).run()
    init.unlink()
    again = Trainer(options(folder / "resumed", init, **settings), progress=False)
    again.resume(folder / "whole" / "checkpoint.2.pt")
    assert again.start_from_init() is None
    again.run()
    one, two = (load_checkpoint(folder / name / "checkpoint.pt")["model"] for name in ("whole", "resumed"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_command(folder, first, capsys):
    """The table comes before training; --resume auto finds the run later, and prints none."""
    out = folder / "command"
    arguments = ["--out", out, "--init", first, "--epochs", 1, "--resume", "auto"]
    code, printed, error = train_here(capsys, *arguments)
    assert code == 0, error
    assert (
        "nothing to resume" in printed and f"starting from {first / 'checkpoint.pt'}, this project's fcos-" in printed
    )
    assert "class layer" in printed and "3 of 3 classes by name" in printed
    code, printed, error = train_here(capsys, *arguments)
    assert code == 0 and "resumed from" in printed and "starting from" not in printed


@pytest.mark.parametrize(
    ("init", "settings", "message"),
    [
        ("nothing.pt", {}, "model.init: no file or run nothing.pt"),
        ("first", {"model__backbone": "resnet34"}, f"its backbone is {BACKBONE}, model.backbone is resnet34"),
        ("resnet", {"model__backbone": "resnet18", "model__style": "caffe"}, "--set model.style=pytorch fits"),
        ("text.pt", {}, "text.pt is no file of torch.save"),
    ],
)
def test_refusals_leave_the_earlier_run(folder, first, resnet, capsys, init, settings, message):
    (folder / "text.pt").write_text("no checkpoint")
    out = folder / "kept"
    (out / "earlier").mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text("of an earlier run")
    code, _, error = train_here(capsys, "--out", out, "--init", init, **settings)
    assert code == 2 and message in error and len(error.strip().splitlines()) == 1
    assert (out / "config.json").read_text() == "of an earlier run"


def test_the_backbones_own_weights_are_not_read(folder, first):
    """Neither the file's nor the package's: the norm and the frozen stages are those of a trained backbone."""
    settings = {"model__weights": "absent.pth", "model__norm": None, "model__frozen_stages": None}
    trainer = Trainer(options(folder / "pretrained", first, **settings), progress=False)
    backbone = trainer.model.backbone
    assert backbone.norm == "frozen_bn" and backbone.frozen_stages == 2
    frozen = {stage: [p.requires_grad for m in modules for p in m.parameters()] for stage, modules in
              enumerate(backbone.stages())}  # fmt: skip
    assert not any(frozen[0] + frozen[1]) and any(frozen[2])
    trainer.start_from_init()
    expected = load_checkpoint(first / "checkpoint.pt")["model"]
    for name, weight in backbone.named_parameters():
        assert torch.equal(weight, expected[f"backbone.{name}"]), name
    explicit = Trainer(
        options(folder / "explicit", first, model__frozen_stages=0, model__norm="bn"), progress=False
    ).model.backbone
    assert explicit.norm == "bn" and explicit.frozen_stages == 0


def test_a_checkpoint_needs_no_init_to_be_evaluated(folder, first):
    trainer = Trainer(options(folder / "evaluated", folder / "first", **ONE_STEP), progress=False)
    trainer.run(until=1)
    assert trained_config(load_checkpoint(folder / "evaluated" / "checkpoint.pt")).model.init is None


def test_two_processes_start_from_the_same(folder, first, capsys):
    """They end with the weights of one process, which has the same batches; the table is printed once."""
    code, printed, error = finish(start(folder, "--out", folder / "two", "--init", first, "--epochs", 1, ranks=2))
    assert code == 0, error
    assert printed.count("starting from") == 1
    code, _, error = train_here(capsys, "--out", folder / "one", "--init", first, "--epochs", 1)
    assert code == 0, error
    one, two = (load_checkpoint(folder / name / "checkpoint.pt")["model"] for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-4, rtol=1e-3, msg=name)
    (folder / "text.pt").write_text("no checkpoint")
    code, _, error = finish(start(folder, "--out", folder / "none", "--init", "text.pt", ranks=2))
    assert code != 0 and error.count("text.pt is no file of torch.save") == 1
