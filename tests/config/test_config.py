"""Presets, overrides by name, and the way to a file and back."""

import dataclasses
import json
import logging

import pytest
import torch

from mlc_ext.detectors.config.overrides import RENAMED, from_dict, override, present_name, report_renamed
from mlc_ext.detectors.config.presets import PRESETS, preset, with_epochs
from mlc_ext.detectors.config.settings import Config
from mlc_ext.detectors.engine.optim import LearningRate, build_optimizer
from mlc_ext.detectors.models.build import build_model


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name):
    config = preset(name)
    if config.model.backbone.startswith("efficientnet"):
        pytest.importorskip("efficientnet_lite_pytorch")
    # pretrained weights are files or packages of their own, and not what is tested
    with torch.device("meta"):
        model = build_model(override(config, "model.weights", None), num_classes=5)
    detector = config.model.detector
    assert model.class_agnostic == config.model.class_agnostic
    out_channels = {"rpn": 3, "retinanet": 45}.get(detector, 5)
    assert model.mlc is config.mlc and model.head.cls_logits.out_channels == out_channels
    assert model.head.cls_tower[0].in_channels == config.model.fpn_channels
    convolutions = [layer for layer in model.head.cls_tower if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) == (1 if detector == "rpn" else config.model.num_convs)
    build_optimizer(model, config)
    LearningRate(config, 100)


@pytest.mark.parametrize("section", ["model", "mlc", "data", "schedule", "run"])
def test_settings_are_constants(section):
    part = getattr(preset("demo"), section)
    for field in dataclasses.fields(part):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, field.name, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(Config(), section, part)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_former_names_of_settings(old, new, caplog):
    """In checkpoints and files (from_dict), in --set and in --allow-change; logged once."""
    report_renamed.cache_clear()
    (section, before), (_, after) = old.split("."), new.split(".")
    default = getattr(getattr(Config(), section), after)
    assert isinstance(default, bool)
    with caplog.at_level(logging.WARNING, "mlc_ext.detectors"):
        expected = override(Config(), new, not default)
        assert not caplog.records
        assert override(Config(), old, str(not default)) == from_dict({section: {before: not default}}) == expected
        assert present_name(Config(), old) == present_name(Config(), new) == new
    assert [record.getMessage() for record in caplog.records] == [f"setting {old} is called {new} now"]
    assert before not in expected.to_dict()[section]


def test_former_names_of_presets(caplog):
    names = [name for name in PRESETS if name.endswith("_mmdet1")]
    assert len(names) == 16
    report_renamed.cache_clear()
    with caplog.at_level(logging.WARNING, "mlc_ext.detectors"):
        for name in names:
            old = name.replace("_mmdet1", "_v1")
            assert preset(old) == override(preset(name), "run.out", f"runs/{old}")  # where its earlier runs are
            assert preset(old).model.mmdet1
    assert f"preset {old} is called {name} now" in caplog.text and len(caplog.records) == len(names)
    with pytest.raises(ValueError, match="unknown preset 'demo_v1'"):
        preset("demo_v1")


def test_unknown_preset():
    with pytest.raises(ValueError, match=r"^unknown preset 'dmeo'; did you mean 'demo'\? \(train --help lists them\)$"):
        preset("dmeo")
    with pytest.raises(ValueError, match="did you mean 'fcos_minus_r50_mlc'"):
        preset("FCOS_minus_r50_mlc")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("schedule.epochs", "7", 7),
        ("schedule.epochs", 7.0, 7),
        ("schedule.lr", "1e-3", 1e-3),
        ("schedule.lr", 1, 1.0),
        ("model.backbone", "resnet18", "resnet18"),
        ("model.weights", "None", None),
        ("model.weights", "resnet50.pth", "resnet50.pth"),
        ("model.frozen_stages", "0", 0),
        ("model.frozen_stages", "none", None),
        ("model.norm_on_bbox", "true", True),
        ("model.norm_on_bbox", "False", False),
        ("model.norm_on_bbox", "1", True),
        ("model.norm_on_bbox", False, False),
        ("model.center_sampling_radius", "1.5", 1.5),
        ("schedule.clip_grad", "none", None),
        ("schedule.milestones", "8,11", (8.0, 11.0)),
        ("schedule.milestones", "6.5", (6.5,)),
        ("schedule.milestones", [8, 11], (8.0, 11.0)),
        ("schedule.milestones", "none", None),
        ("mlc.bins", "256", 256),
        ("mlc.ml", "0", False),
        ("mlc.start_epoch", "7.5", 7.5),
        ("mlc.degenerate", "literal", "literal"),
        ("run.eval_every", "2", 2),
    ],
)
def test_override_parses_by_type(name, text, value):
    section, key = name.split(".")
    before = Config()
    changed = override(before, name, text)
    found = getattr(getattr(changed, section), key)
    assert found == value and type(found) is type(value)
    assert before == Config()  # the given one is left alone
    setting = {**before.to_dict(), section: {**before.to_dict()[section], key: value}}
    assert changed.to_dict() == setting


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("schedule.epochs", "seven", "schedule.epochs must be int, got 'seven'"),
        ("schedule.epochs", "1.5", "schedule.epochs must be int, got '1.5'"),
        ("schedule.epochs", 1.5, "schedule.epochs must be int, got 1.5"),
        ("schedule.epochs", float("inf"), "schedule.epochs must be int, got inf"),
        ("schedule.epochs", "none", "schedule.epochs must not be None"),
        ("schedule.lr", "", "schedule.lr must be float, got ''"),
        ("model.norm_on_bbox", "yes", r"model.norm_on_bbox must be bool \(true or false\), got 'yes'"),
        ("model.frozen_stages", "two", "model.frozen_stages must be int or None, got 'two'"),
        ("schedule.milestones", "8,eleven", "schedule.milestones must be several float or None, got '8,eleven'"),
        ("mlc.alpha", "-1", "alpha must not be negative, got -1"),
    ],
)
def test_override_refuses_what_does_not_fit(name, text, message):
    with pytest.raises(ValueError, match=message):
        override(Config(), name, text)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("schedule.epoch", "schedule.epochs"),
        ("mlc.gama", "mlc.gamma"),
        ("model.bakbone", "model.backbone"),
        ("epochs", "schedule.epochs"),
        ("model.backbone.depth", "model.backbone"),
    ],
)
def test_unknown_keys_name_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"unknown setting '{name}'; did you mean '{nearest}'?"):
        override(Config(), name, "1")


def test_a_key_like_no_other_is_refused_without_a_guess():
    with pytest.raises(ValueError, match="unknown setting 'zzzzzz'$"):
        override(Config(), "zzzzzz", "1")


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip(name, tmp_path):
    config = override(preset(name), "schedule.milestones", "3,4.5")
    assert from_dict(config.to_dict()) == config
    (tmp_path / "config.json").write_text(config.to_json())
    assert from_dict(json.loads((tmp_path / "config.json").read_text())) == config


def test_from_dict_refuses_unknown_keys_and_defaults_the_absent():
    assert from_dict({"schedule": {"lr": 0.5}}) == override(Config(), "schedule.lr", 0.5)
    with pytest.raises(ValueError, match="unknown setting 'schedule.rate'"):
        from_dict({"schedule": {"rate": 0.5}})
    with pytest.raises(ValueError, match="unknown setting 'scheduler.lr'; did you mean 'schedule.lr'"):
        from_dict({"scheduler": {"lr": 0.5}})


@pytest.mark.parametrize(
    ("epochs", "milestones"),
    [
        (19, (16, 18)),
        (24, (18, 22)),
        (48, (36, 44)),
        (12, (8, 11)),
        (13, (13 * 16 / 19, 13 * 18 / 19)),
        (1, (16 / 19, 18 / 19)),
    ],
)
def test_milestones_keep_the_papers_fractions(epochs, milestones):
    config = override(Config(), "schedule.epochs", epochs)
    assert config.milestones() == pytest.approx(milestones)
    assert override(config, "schedule.milestones", "1,2").milestones() == (1.0, 2.0)


def test_the_papers_schedules():
    for epochs in (19, 24):
        config = with_epochs(preset("fcos_minus_r50_mlc"), epochs)
        assert config.schedule.epochs == epochs and config.mlc.start_epoch == 12 and config.mlc.alpha == 0
        assert (config.schedule.lr, config.schedule.batch_size) == (0.01, 16)
        assert (config.data.short_side, config.data.long_side) == (800, 1333)
    demo = preset("demo")
    assert demo.mlc.start_epoch / demo.schedule.epochs == pytest.approx(12 / 19)
