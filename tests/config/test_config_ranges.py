"""Every setting out of its range is refused when the configuration is made, and every choice that is allowed exists."""

import dataclasses
import math
import typing

import pytest
import torch

from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.presets import PRESETS, preset
from mlc_ext.detectors.config.settings import BACKBONES, Config, DataConfig, ModelConfig, RunConfig, ScheduleConfig
from mlc_ext.detectors.models.backbones.base import NORMS
from mlc_ext.detectors.models.backbones.resnet import RESNETS
from mlc_ext.detectors.models.build import _ONLY, build_model
from mlc_ext.ops.iou_loss import _KINDS

OUTSIDE = {
    "model.detector": ("yolo", "FCOS"),
    "model.backbone": ("resnet7", "timm:", "timm: x"),
    "model.norm": ("gn", "off"),
    "model.style": ("torch",),
    "model.frozen_stages": (-1, 6),
    "model.fpn_channels": (0, -64, 10**9),
    "model.num_convs": (0, 101),
    "model.box_loss": ("l1",),
    "model.center_sampling_radius": (0, -1.5),
    "model.centerness_on": ("both",),
    "model.tower_norm": ("bn", "GN"),
    "model.extra_levels": ("c4", "relu", "p5relu"),
    "model.assigner": ("hungarian", "auto_assign"),
    "model.cls_loss": ("gfl",),
    "model.smooth_l1_beta": (-0.1,),
    "model.nms": ("soft",),
    "model.nms_threshold": (50, -0.1, 1.01),
    "mlc.start_epoch": (-1,),
    "mlc.alpha": (-0.5,),
    "mlc.metric": ("paper", "product"),
    "mlc.alignment_exponent": (-1, float("inf")),
    "mlc.min_gap": (-0.1,),
    "mlc.gamma": (-1,),
    "mlc.iur_start_epoch": (-1,),
    "mlc.alignment": (-1,),
    "mlc.degenerate": ("other",),
    "mlc.candidates": ("none of them",),
    "mlc.tau": ("upper",),
    "mlc.bins": (1, 65537),
    "data.short_side": (0, -800, "640,0", 10**9),
    "data.long_side": (0, 10**9),
    "data.eval_short_side": (0,),
    "data.val_fraction": (0, 1, -0.2, 20),
    "data.val_seed": (-1, 2**63),
    "data.flip": (-0.1, 1.5, 50),
    "data.scale_jitter": ("0.5", "2,0.5", "0,1", "0.5,5", "0.1,1,2", []),
    "data.min_visible": (-0.1, 1.5),
    "data.photometric": (-0.1, 1.5),
    "data.mosaic": (-0.1, 1.5),
    "data.mosaic_end": (-0.1, 1.5),
    "data.limit_train": (0, -1),
    "data.limit_val": (0, -1),
    "data.workers": (-1, 100_000),
    "data.evaluator": ("fast",),
    "data.generated_images": (0, -5, 10**7),
    "data.generated_size": (47, 4097),
    "schedule.epochs": (0, -3, 10**9),
    "schedule.batch_size": (0, 10**9),
    "schedule.accumulate": (0,),
    "schedule.precision": ("fp8", "FP32"),
    "schedule.ema": (-0.1, 1, 1.5),
    "schedule.optimizer": ("lion", "SGD"),
    "schedule.lr": (0, -0.01),
    "schedule.momentum": (-0.1, 1, 7),
    "schedule.weight_decay": (-1,),
    "schedule.bias_lr_factor": (-2,),
    "schedule.bias_weight_decay": (-1e-4,),
    "schedule.clip_grad": (0, -35),
    "schedule.warmup_iterations": (-1,),
    "schedule.warmup": ("cosine",),
    "schedule.warmup_factor": (-1 / 3, 1.5),
    "schedule.kind": ("linear", "Cosine"),
    "schedule.end_factor": (-0.1, 1.5),
    "schedule.milestones": ("-1", "0,8", "11,8", "8,8"),
    "run.seed": (-1, 2**63),
    "run.device": ("tpu", "meta", "cuda:", "cuda:-1", "cuda:0:1", "CPU", "mps", " cpu", "cuda:1\n"),
    "run.threads": (0, 10**6),
    "run.log_every": (0,),
    "run.eval_every": (0,),
    "run.label_images": (0, -1),
    "run.save_every": (0,),
    "run.keep_checkpoints": (0,),
    "run.best_metric": ("loss", "ap", "correlation"),
    "run.patience": (0, -2),
}
FREE_TEXT = ("model.weights", "model.init", "data.data", "data.train_images", "data.train_annotations",
             "data.val_images", "data.val_annotations", "data.categories", "run.out", "run.compile")  # fmt: skip


def settings():
    for section in dataclasses.fields(Config):
        part = getattr(Config(), section.name)
        kinds = typing.get_type_hints(type(part))
        yield from ((f"{section.name}.{field.name}", kinds[field.name]) for field in dataclasses.fields(part))


def test_no_setting_is_without_a_check():
    known = {name for name, kind in settings() if kind not in (bool, bool | None)}
    assert known == set(OUTSIDE) | set(FREE_TEXT)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in OUTSIDE.items() for value in values])
def test_outside_of_the_range(name, value):
    with pytest.raises(ValueError, match=name.rpartition(".")[2]) as error:
        override(Config(), name, value)
    assert "\n" not in str(error.value).replace(repr(value), "") and "got" in str(error.value)


@pytest.mark.parametrize("name", FREE_TEXT)
@pytest.mark.parametrize("text", ["", "  ", "a\0b"])
def test_text_of_an_unset_variable(name, text):
    """``--set data.data=$UNSET`` is not the working directory."""
    with pytest.raises(ValueError, match=f"{name} must not be empty or contain a null character"):
        override(Config(), name, text)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1"])
def test_numbers_made_in_python_are_finite_numbers(value):
    for kind, name in ((ScheduleConfig, "lr"), (ScheduleConfig, "weight_decay"), (DataConfig, "flip"),
                       (RunConfig, "seed")):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            kind(**{name: value})
    with pytest.raises(ValueError, match=r"milestones\[1\] must be above 0 or None"):
        ScheduleConfig(milestones=(1.0, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.nms_threshold", 0), ("model.nms_threshold", 1), ("model.frozen_stages", 5), ("model.smooth_l1_beta", 0),
        ("model.backbone", "timm:resnet18.a1_in1k"), ("data.flip", 1), ("data.workers", 0),
        ("data.generated_size", 48), ("schedule.ema", 0), ("schedule.momentum", 0), ("schedule.weight_decay", 0),
        ("schedule.warmup_factor", 0), ("schedule.warmup_factor", 1), ("schedule.milestones", []),
        ("schedule.bias_lr_factor", 0), ("run.seed", 2**63 - 1), ("run.device", "cuda:3"), ("mlc.bins", 2),
    ],
)  # fmt: skip
def test_the_ends_belong_to_the_range(name, value):
    override(Config(), name, value)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_within(name):
    config = preset(name)
    for section in dataclasses.fields(config):
        dataclasses.replace(getattr(config, section.name))


def test_choices_are_those_of_the_models():
    names = {"detector": _ONLY, "norm": NORMS, "box_loss": _KINDS, "backbone": [*RESNETS, "efficientnet_lite0"]}
    for setting, known in names.items():
        for name in known:
            override(Config(), f"model.{setting}", name)
    assert sorted(BACKBONES) == sorted(names["backbone"])


@pytest.mark.parametrize(("name", "value"), [("style", "caffe"), ("centerness_on", "reg"), ("box_loss", "linear_iou"),
                                             ("norm", "fixed"), ("num_convs", 1), ("frozen_stages", 5)])  # fmt: skip
def test_what_is_allowed_can_be_built(name, value):
    config = override(preset("fcos_r50"), f"model.{name}", value)
    with torch.device("meta"):
        build_model(config, 3)


def test_one_kind_of_anchors():
    with pytest.raises(ValueError, match="torchvision_anchors and model.mmdet1 are different anchors"):
        ModelConfig(detector="retinanet", torchvision_anchors=True, mmdet1=True)
