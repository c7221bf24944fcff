"""Small detectors of this project under the names of other libraries, written down from those libraries' models."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from mlc_ext.detectors.config.settings import Config, ModelConfig
from mlc_ext.detectors.models.build import build_model
from mlc_ext.detectors.models.dense_detector import DenseDetector


def small(num_classes: int = 3, seed: int = 0, **settings) -> tuple[DenseDetector, ModelConfig]:
    """A model and its settings, by default RetinaNet; every weight is random."""
    settings = {"detector": "retinanet", "backbone": "resnet18", "fpn_channels": 32, "num_convs": 2} | settings
    if settings["detector"] == "rpn":
        del settings["num_convs"]
    config = Config(model=ModelConfig(**settings))
    model = build_model(config, num_classes).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if name.endswith("running_var") else tensor.normal_()
    return model, config.model


def _renamed(tensors: dict[str, Tensor], rules: dict[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith("head.iou_logits"):
            continue
        for pattern, replacement in rules.items():
            name = re.sub(f"^{pattern}", replacement, name)
        renamed[name] = tensor.clone()
    return renamed


def _towers(tensors: dict[str, Tensor], step: int, name) -> dict[str, Tensor]:
    """Towers renamed by ``name(tower, number of the convolution, 0 for it or 1 for its norm, rest)``."""
    renamed = {}
    for key, tensor in tensors.items():
        if match := re.fullmatch(r"head\.(cls|reg)_tower\.(\d+)\.(\w+)", key):
            key = name(match[1], *divmod(int(match[2]), step), match[3])
        renamed[key] = tensor
    return renamed


def as_torchvision(tensors: dict[str, Tensor], *, norm: bool = False, nested: bool = True) -> dict[str, Tensor]:
    """RetinaNet's names; ``nested``: those since version 0.14, in which each convolution is in a Sequential."""
    heads, inner = {"cls": "classification", "reg": "regression"}, ".0" if nested else ""

    def tower(which: str, number: int, place: int, rest: str) -> str:
        index = f"{number}.{place}" if nested else str(number * (3 if norm else 2) + place)
        return f"head.{heads[which]}_head.conv.{index}.{rest}"

    tensors = _towers(tensors, 3 if norm else 2, tower)
    return _renamed(
        tensors,
        {
            r"backbone\.": "backbone.body.",
            r"fpn\.lateral_convs\.(\d+)": rf"backbone.fpn.inner_blocks.\1{inner}",
            r"fpn\.fpn_convs\.(\d+)": rf"backbone.fpn.layer_blocks.\1{inner}",
            r"fpn\.extra_convs\.0": "backbone.fpn.extra_blocks.p6",
            r"fpn\.extra_convs\.1": "backbone.fpn.extra_blocks.p7",
            r"head\.cls_logits": "head.classification_head.cls_logits",
            r"head\.bbox_regression": "head.regression_head.bbox_reg",
            r"head\.bbox_ctrness": "head.regression_head.bbox_ctrness",
        },
    )


def with_background(tensors: dict[str, Tensor], num_anchors: int) -> dict[str, Tensor]:
    """With a column before the first class, as torchvision's class layer has."""
    tensors = dict(tensors)
    for kind in ("weight", "bias"):
        name = f"head.classification_head.cls_logits.{kind}"
        layer = tensors[name].unflatten(0, (num_anchors, -1))
        tensors[name] = torch.cat([torch.full_like(layer[:, :1], 7.0), layer], 1).flatten(0, 1)
    return tensors


def as_mmdetection(tensors: dict[str, Tensor], *, norm: bool = False, layer: str = "retina") -> dict[str, Tensor]:
    """Names of RetinaNet, or with ``layer="conv"`` (formerly "fcos") of FCOS."""

    def tower(which: str, number: int, place: int, rest: str) -> str:
        return f"bbox_head.{which}_convs.{number}.{'gn' if place else 'conv'}.{rest}"

    scales = tensors.get("head.scales")
    tensors = _towers({name: x for name, x in tensors.items() if name != "head.scales"}, 3 if norm else 2, tower)
    renamed = _renamed(
        tensors,
        {
            r"fpn\.lateral_convs\.(\d+)": r"neck.lateral_convs.\1.conv",
            r"fpn\.fpn_convs\.(\d+)": r"neck.fpn_convs.\1.conv",
            r"fpn\.extra_convs\.0": "neck.fpn_convs.3.conv",
            r"fpn\.extra_convs\.1": "neck.fpn_convs.4.conv",
            r"head\.cls_logits": f"bbox_head.{layer}_cls",
            r"head\.bbox_regression": f"bbox_head.{layer}_reg",
            r"head\.bbox_ctrness": f"bbox_head.{layer}_centerness",
        },
    )
    if scales is not None:
        renamed |= {f"bbox_head.scales.{i}.scale": x for i, x in enumerate(scales)}
    return renamed
