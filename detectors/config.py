"""A run's configuration: plain dataclasses and overrides by name. The presets are in presets.py."""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path

from mlc_ext.mutual_labeling import MLCConfig

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass
class ModelConfig:
    detector: str = "fcos-"
    """"fcos-" (without centerness), "fcos", "retinanet" or "rpn"."""
    backbone: str = "resnet50"
    """A name of detectors.backbone.build_backbone."""
    weights: str | None = None
    """Path of ImageNet weights (torchvision's files); "imagenet": efficientnet_lite0's own package."""
    frozen_stages: int | None = None
    """Stages of the backbone that are not trained: 0 none, 1 the stem, 2 the first stage too; None: 2 with weights,
    else 0."""
    norm: str | None = None
    """Batch norm of the backbone: "bn" trained, "frozen_bn" with fixed statistics, "fixed"; None: "frozen_bn" with
    weights, else "bn"."""
    style: str = "pytorch"
    """Where a ResNet's bottlenecks have their stride: "pytorch" (the 3x3) or "caffe" (the first 1x1)."""
    fpn_channels: int = 256
    num_convs: int = 4
    """3x3 convolutions in each tower of the head; RPN's has one always."""
    box_loss: str = "iou"
    """FCOS: "iou" (-log IoU), "giou" or "linear_iou"."""
    center_sampling_radius: float | None = None
    """FCOS: None, or the radius in strides around a gt's centre that its positives lie in."""
    norm_on_bbox: bool = False
    """FCOS: regress in units of the stride, without the exponential."""
    centerness_on: str = "cls"
    """FCOS: the tower that predicts centerness, "cls" or "reg"."""
    centerness_weights: bool | None = None
    """FCOS: whether the box loss is weighed by centerness; None: where it is predicted."""
    v1: bool = False
    """MMDetection 1.1's: FCOS's normaliser and areas; RetinaNet's and RPN's anchors, coder and smooth L1."""
    smooth_l1_beta: float | None = None
    """RetinaNet, RPN: of the box loss; 0 is L1; None: 0, with v1 0.11 and 1/9."""
    nms: str = "rescored"
    """"rescored" (by score x quality) or "iou" (IoU-Net's, by predicted IoU; needs mlc.iur)."""
    nms_threshold: float | None = None
    """IoU above which a box is dropped; None: 0.5, RPN 0.7."""


@dataclass
class DataConfig:
    data: str | None = None
    """Folder of a COCO-format data set; None: the generated one."""
    train_images: str | None = None
    train_annotations: str | None = None
    val_images: str | None = None
    val_annotations: str | None = None
    short_side: int = 800
    long_side: int = 1333
    flip: float = 0.5
    limit_train: int | None = None
    """Only the first so many training images (overfitting checks)."""
    val_is_train: bool = False
    """Evaluate on the training images (overfitting checks)."""
    keep_empty: bool = True
    """Keep images without boxes as pure background."""
    workers: int = 0
    generated_images: int = 320
    """Training images of the generated set; a quarter as many are added for validation."""
    generated_size: int = 160


@dataclass
class ScheduleConfig:
    epochs: int = 24
    batch_size: int = 16
    """Images of an optimiser step, over all ranks and parts."""
    accumulate: int = 1
    """Parts that a rank's share of the batch is run in, one after another, to save memory. A step's loss is the mean
    of its parts', each divided by its own count of positives: that of the whole batch if those counts are equal."""
    precision: str = "fp32"
    """"fp32", or autocast to "bf16" or "fp16" (with a loss scale); weights, losses and evaluation stay float32."""
    ema: float | None = None
    """Decay per step of an exponential moving average of the weights, which is then what is evaluated; None: none."""
    optimizer: str = "sgd"
    """"sgd" (momentum 0.9) or "adamw"."""
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    bias_lr_factor: float = 2.0
    """FCOS trains biases at twice the rate and without decay."""
    bias_weight_decay: float = 0.0
    clip_grad: float | None = 35.0
    warmup_iterations: int = 500
    warmup: str = "constant"
    """"constant" or "linear"."""
    warmup_factor: float = 1 / 3
    milestones: tuple[float, ...] | None = None
    """Epochs at which the rate falls to a tenth; None: 8, 11 of 12; as 18, 22 of 24 from 24 on; else as 16, 18
    of 19."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"schedule.{name} must be at least 1, got {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"schedule.precision must be one of {PRECISIONS}, got {self.precision!r}")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"schedule.ema must be in [0, 1) or None, got {self.ema}")


@dataclass
class RunConfig:
    out: str = "runs/default"
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    """CPU threads; None: torch's own choice."""
    log_every: int = 20
    eval_every: int | None = None
    """Epochs between evaluations; None: only at the end."""
    correlation: bool = True
    """Report the score-IoU correlations at each evaluation."""
    save_every: int | None = 500
    """Iterations between checkpoints, beside those at evaluations, interruptions and the end; None: only those."""
    keep_checkpoints: int = 3
    """How many of the newest are kept: checkpoint.pt, checkpoint.1.pt, ..."""
    compile: str | None = None
    """torch.compile's backend for backbone, pyramid and head ("inductor"); None: not compiled."""
    channels_last: bool = False
    tf32: bool = True
    """TF32 in convolutions and matrix products on GPUs that have it."""
    deterministic: bool = False
    """Only deterministic algorithms: the same bits again on a GPU too, or an error."""

    def __post_init__(self) -> None:
        for name in ("log_every", "save_every", "eval_every", "keep_checkpoints"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"run.{name} must be at least 1, got {value}")


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    mlc: MLCConfig = field(default_factory=MLCConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def milestones(self) -> tuple[float, ...]:
        """Epochs at which the learning rate falls."""
        if self.schedule.milestones is not None:
            return self.schedule.milestones
        epochs = self.schedule.epochs
        first, second, of = (8, 11, 12) if epochs == 12 else (18, 22, 24) if epochs >= 24 else (16, 18, 19)
        return (epochs * first / of, epochs * second / of)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n")


def differences(before: Config, after: Config) -> dict[str, tuple[object, object]]:
    """``section.key`` -> (before, after) of the settings that differ."""
    found = {}
    for section in dataclasses.fields(before):
        old, new = getattr(before, section.name), getattr(after, section.name)
        for setting in dataclasses.fields(old):
            values = getattr(old, setting.name), getattr(new, setting.name)
            if values[0] != values[1]:
                found[f"{section.name}.{setting.name}"] = values
    return found


def from_dict(values: dict) -> Config:
    """The configuration of :meth:`Config.to_dict`; unknown keys are errors."""
    config = Config()
    for section, entries in values.items():
        for key, value in entries.items():
            config = override(config, f"{section}.{key}", value)
    return config


def override(config: Config, name: str, value: object) -> Config:
    """`config` with ``section.key`` set to ``value``; text is parsed by the field's type.

    Raises:
        ValueError: the name is unknown (the nearest is named) or the text does not fit the type.
    """
    check_name(config, name)
    section, _, key = name.partition(".")
    part = getattr(config, section)
    kind = typing.get_type_hints(type(part))[key]
    return dataclasses.replace(config, **{section: dataclasses.replace(part, **{key: _parse(name, value, kind)})})


def check_name(config: Config, name: str) -> None:
    """ValueError if there is no setting ``section.key``; the nearest is named."""
    known = [f"{s.name}.{f.name}" for s in dataclasses.fields(config) for f in
             dataclasses.fields(getattr(config, s.name))]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        raise ValueError(f"unknown setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _parse(name: str, value: object, kind: object) -> object:
    """`value` as the annotation `kind` wants it: from text, or from JSON's types."""
    options = typing.get_args(kind) if typing.get_origin(kind) not in (None, tuple) else (kind,)
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        if type(None) in options:
            return None
        raise ValueError(f"{name} must not be None")
    for option in options:
        if option is type(None):
            continue
        try:
            if typing.get_origin(option) is tuple:
                parts = value.split(",") if isinstance(value, str) else value
                return tuple(float(part) for part in parts)
            if option is bool:
                return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
            if option is int and isinstance(value, float) and value != int(value):
                raise ValueError
            return option(value)
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
    wanted = " or ".join("None" if o is type(None) else getattr(o, "__name__", str(o)) for o in options)
    raise ValueError(f"{name} must be {wanted}, got {value!r}")
