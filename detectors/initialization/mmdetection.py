"""The name map of MMDetection's FCOS, RetinaNet, RPN and Faster R-CNN, of versions 2 and 3."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..models.backbones.base import Normalization
from .files import WeightFile
from .source import (
    Source,
    backbone_name,
    counted,
    extra_levels_from,
    known_head,
    place_in_towers,
    renamed,
    tower_settings,
)

NAMES = (
    (r"backbone\.(.+)", r"backbone.\1"),
    (r"neck\.(lateral|fpn)_convs\.(\d+)\.conv", r"fpn.\1_convs.\2"),
    (r"bbox_head\.(cls|reg)_convs\.(\d+)\.conv", r"head.\1_tower.\2.conv"),
    (r"bbox_head\.(cls|reg)_convs\.(\d+)\.gn", r"head.\1_tower.\2.norm"),
    (r"(?:rpn|bbox)_head\.rpn_conv", "head.cls_tower.0"),
    (r"(?:rpn|bbox)_head\.rpn_conv\.(\d+)\.conv", r"head.cls_tower.\1.conv"),
    (r"bbox_head\.(?:retina|conv|fcos)_cls|(?:rpn|bbox)_head\.rpn_cls", "head.cls_logits"),
    (r"bbox_head\.(?:retina|conv|fcos)_reg|(?:rpn|bbox)_head\.rpn_reg", "head.bbox_regression"),
    (r"bbox_head\.(?:conv|fcos)_centerness", "head.bbox_ctrness"),
    (r"bbox_head\.scales\.(\d+)", r"head.scales.\1"),
)

KINDS = {"fcos": "FCOS", "retinanet": "RetinaNet", "rpn": "RPN or a detector with one"}

_AVERAGES = "ema_"
"""MMDetection 2's average of the weights: while it saves, the averages have the plain names."""


def is_mmdetection(names: list[str]) -> bool:
    return any(name.startswith("neck.lateral_convs.") for name in names)


def from_mmdetection(file: WeightFile) -> Source:
    """The detector of a file for which :func:`is_mmdetection` holds."""
    plain = {name: x for name, x in file.tensors.items() if not name.startswith(_AVERAGES)}
    mapped, unknown = renamed(plain, NAMES)
    averages = len(file.tensors) - len(plain)
    tensors = _with_levels(place_in_towers(mapped))
    head = known_head(_head(file.tensors), tensors)
    config = written_config(file.meta)
    settings: dict[str, Any] = {"backbone": backbone_name(tensors), **tower_settings(tensors, head)}
    if config.get("style") in ("pytorch", "caffe"):
        settings["style"] = config["style"]
    if head in ("fcos", "retinanet"):
        settings["extra_levels"] = _extra_levels(config, head, tensors)
    if head == "fcos" and config:
        settings["norm_on_bbox"] = bool(config.get("norm_on_bbox", False))
        settings["centerness_on"] = "reg" if config.get("centerness_on_reg", False) else "cls"
    notes = []
    normalization = _normalization(config)
    if config and normalization is None:
        notes.append("its configuration has no pixel means and order that can be read: they are taken as set here")
    if not config:
        notes.append("the file has no configuration: style, inputs and box layer are taken as set here")
        if _has_folded_norms(tensors):
            notes.append(
                "its batch norms have the statistics 0 and 1, as Caffe's weights, which need model.style=caffe"
            )
    if averages:
        notes.append("of its two sets of weights, the plain names are taken: MMDetection saves the averages there")
    return Source(
        f"MMDetection's {KINDS.get(head, 'detector')}",
        head,
        tensors,
        counted(unknown) | ({f"{_AVERAGES}*": averages} if averages else {}),
        {name: value for name, value in settings.items() if value is not None or name == "tower_norm"},
        class_names(file.meta),
        normalization,
        tuple((None, note) for note in notes),
    )


def _head(names: Mapping[str, Tensor]) -> str | None:
    if "bbox_head.retina_cls.weight" in names:
        return "retinanet"
    if any(f"bbox_head.{name}_centerness.weight" in names for name in ("conv", "fcos")):
        return "fcos"
    return "rpn" if any(f"{name}.rpn_cls.weight" in names for name in ("rpn_head", "bbox_head")) else None


def _with_levels(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The output convolutions that have no lateral are those of the extra levels; the scales are one tensor."""
    laterals = sum(name.startswith("fpn.lateral_convs.") and name.endswith(".weight") for name in tensors)
    found, scales = {}, {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if name.startswith("fpn.fpn_convs.") and int(parts[2]) >= laterals:
            name = f"fpn.extra_convs.{int(parts[2]) - laterals}.{parts[3]}"
        if name.startswith("head.scales.") and tensor.numel() == 1:
            scales[int(parts[2])] = tensor.reshape(())
        else:
            found[name] = tensor
    if scales:
        found["head.scales"] = torch.stack([scales[i] for i in sorted(scales)])
    return found


def class_names(meta: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The classes in ``meta`` of a checkpoint: ``CLASSES`` in version 2, below ``dataset_meta`` in version 3."""
    inside = meta.get("dataset_meta")
    places = [meta, inside] if isinstance(inside, Mapping) else [meta]
    for place in places:
        for key in ("CLASSES", "classes"):
            names = place.get(key)
            if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
                return tuple(names)
    return None


def written_config(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The literals in the configuration that ``meta`` holds as Python text, by name, the first of each; empty without.

    The text is parsed, not run.
    """
    text = meta.get("cfg", meta.get("config"))
    try:
        tree = ast.parse(text) if isinstance(text, str) else ast.Module([], [])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        pairs = []
        if isinstance(node, ast.keyword):
            pairs = [(node.arg, node.value)]
        elif isinstance(node, ast.Dict):
            pairs = [(key.value, value) for key, value in zip(node.keys, node.values, strict=True)
                     if isinstance(key, ast.Constant)]  # fmt: skip
        for name, value in pairs:
            try:
                found.setdefault(name, ast.literal_eval(value))
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
    return found


def _extra_levels(config: Mapping[str, Any], head: str, tensors: Mapping[str, Tensor]) -> str | None:
    """Where ``add_extra_convs`` is True, the shape decides: early files of version 2 have the place elsewhere."""
    written = config.get("add_extra_convs")
    if written == "on_lateral":
        return None
    source = {"on_input": "c5", "on_output": "p5"}.get(str(written)) or extra_levels_from(tensors)
    relu = config.get("relu_before_extra_convs") if config else head == "fcos"  # as in every published file of the head
    return source and source + ("_relu" if relu else "")


def _normalization(config: Mapping[str, Any]) -> Normalization | None:
    mean, std = config.get("mean"), config.get("std")
    order = config.get("bgr_to_rgb", config.get("to_rgb"))
    three = [isinstance(x, (list, tuple)) and len(x) == 3 and all(isinstance(v, (int, float)) for v in x)
             for x in (mean, std)]  # fmt: skip
    if not all(three) or not isinstance(order, bool) or min(std) <= 0:
        return None
    return Normalization(tuple(mean), tuple(std), "rgb" if order else "bgr", scale=255.0)


def _has_folded_norms(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the statistics of all batch norms are 0 and 1: Caffe's weights have them within the affine part."""
    means = [x for name, x in tensors.items() if name.startswith("backbone.") and name.endswith("running_mean")]
    variances = [x for name, x in tensors.items() if name.startswith("backbone.") and name.endswith("running_var")]
    folded = [(x.abs() < 1e-6).all() for x in means] + [((x - 1).abs() < 1e-3).all() for x in variances]
    return bool(means) and all(folded)
