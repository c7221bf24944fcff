"""Named configurations: the paper's detectors with MMDetection's settings, with and without the parts of the method.

``<detector>_r50`` and ``<detector>_r50_{ml,iur,mlc}`` for FCOS, FCOS- (``fcos_minus``), RetinaNet and RPN. MMDetection
3.x by default; ``_mmdet1`` names the 1.1 settings that the paper's baselines used: anchors with +1 widths, smooth L1,
RetinaNet's warm-up from 1/3 and clipping, FCOS's normalizer of positives + images. ``<detector>_r50_<assigner>`` and
the same with ``_iur`` and ``_mlc`` are FCOS, FCOS- and RetinaNet with another rule of label assignment, such as
``fcos_r50_atss_mlc``.

Two things differ from MMDetection: images without boxes are kept (``data.keep_empty``), and FCOS's backbone is in
torchvision's style, for torchvision's weights (``model.style=caffe`` with Caffe's own).
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from functools import partial
from itertools import product

from mlc_ext import MLCConfig

from .overrides import report_renamed
from .paper_schedule import mutual_start
from .settings import ASSIGNERS, Config, DataConfig, ModelConfig, RunConfig, ScheduleConfig

DETECTORS = {"fcos": "fcos", "fcos_minus": "fcos-", "retinanet": "retinanet", "rpn": "rpn"}
"""The name of each in presets."""

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


def with_epochs(config: Config, epochs: int) -> Config:
    """``config`` with another number of epochs; the starts of the method's parts keep their fractions of it."""
    iur_start = config.mlc.iur_start_epoch
    if iur_start is not None:
        iur_start *= epochs / config.schedule.epochs
    return dataclasses.replace(
        config,
        schedule=dataclasses.replace(config.schedule, epochs=epochs),
        mlc=dataclasses.replace(config.mlc, start_epoch=mutual_start(epochs), iur_start_epoch=iur_start),
    )


def r50(detector: str, *, mmdet1: bool = False, model: dict | None = None, **mlc) -> Config:
    """A detector on ResNet-50-FPN at 800 x 1333, batch 16."""
    schedule = SCHEDULES[detector]
    if mmdet1 and detector == "retinanet":
        schedule = dataclasses.replace(schedule, warmup_factor=1 / 3, clip_grad=35.0)
    return Config(
        model=ModelConfig(detector=detector, mmdet1=mmdet1, **(model or {})),
        mlc=MLCConfig.paper(detector, start_epoch=mutual_start(schedule.epochs), **mlc),
        schedule=schedule,
        data=DataConfig(workers=4),
    )


def demo() -> Config:
    """For the generated data: minutes on two CPU cores, from the ImageNet weights of a package."""
    return Config(
        model=ModelConfig(
            backbone="efficientnet_lite0", weights="imagenet", frozen_stages=0, norm="bn", fpn_channels=64, num_convs=2
        ),
        mlc=MLCConfig(start_epoch=mutual_start(12)),
        data=DataConfig(short_side=160, long_side=160),
        schedule=ScheduleConfig(
            epochs=12,
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
    """For small real images on a CPU: a pretrained efficientnet_lite0 (weights of a package), 320 pixels."""
    return dataclasses.replace(
        demo(),
        model=dataclasses.replace(demo().model, fpn_channels=128),
        data=DataConfig(short_side=320, long_side=320),
    )


def few_images() -> Config:
    """For some tens to hundreds of images: `small` with scale jitter, photometric distortion, a cosine schedule, the
    best checkpoint by AP, and an end after 12 epochs of mutual labeling without a better one."""
    config = with_epochs(small(), 40)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, scale_jitter=(0.5, 1.5), photometric=0.5),
        schedule=dataclasses.replace(config.schedule, kind="cosine"),
        run=RunConfig(eval_every=2, best_metric="AP", patience=6),
    )


def _all() -> dict[str, Callable[[], Config]]:
    presets: dict[str, Callable[[], Config]] = {"demo": demo, "small": small, "few_images": few_images}
    off = METHODS[""]
    for name, detector in DETECTORS.items():
        for suffix, method in METHODS.items():
            presets[f"{name}_r50{suffix}"] = lambda d=detector, m=method: r50(d, **m)
            presets[f"{name}_r50{suffix}_mmdet1"] = lambda d=detector, m=method: r50(d, mmdet1=True, **m)
    presets["fcos_minus_r50_alignment"] = lambda: r50("fcos-", alignment=1.0, **off)
    presets["fcos_tricks_r50"] = lambda: r50("fcos", model=FCOS_TRICKS, **off)
    for name, assigner, suffix in product(("fcos", "fcos_minus", "retinanet"), ASSIGNERS, ("", "_iur", "_mlc")):
        arguments = {"detector": DETECTORS[name], "model": {"assigner": assigner}, **METHODS[suffix]}
        presets[f"{name}_r50_{assigner}{suffix}"] = partial(r50, **arguments)
    return presets


PRESETS = _all()


def preset(name: str) -> Config:
    """The configuration called ``name``, with its output in runs/NAME. For others ValueError, with the nearest name.

    The former names ``..._v1`` stand for ``..._mmdet1``; their output is in runs/..._v1, where earlier runs are.
    """
    present = f"{name.removesuffix('_v1')}_mmdet1" if name.endswith("_v1") else name
    if present not in PRESETS:
        near = difflib.get_close_matches(name.casefold(), PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown preset {name!r}{hint} (train --help lists them)")
    if present != name:
        report_renamed("preset", name, present)
    config = PRESETS[present]()
    return dataclasses.replace(config, run=dataclasses.replace(config.run, out=f"runs/{name}"))
