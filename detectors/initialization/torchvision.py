"""The name map of torchvision's FCOS, RetinaNet (v1, v2), Faster R-CNN and what is built like it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.backbones.base import IMAGENET_RGB
from .coco_classes import COCO_COLUMNS
from .files import WeightFile
from .source import (
    Source,
    backbone_name,
    counted,
    extra_levels_from,
    known_head,
    num_anchors,
    place_in_towers,
    renamed,
    tower_settings,
)

NAMES = (
    (r"backbone\.body\.(.+)", r"backbone.\1"),
    # since torchvision 0.14 each convolution of the pyramid and of the towers is in a Sequential
    (r"backbone\.fpn\.inner_blocks\.(\d+)(?:\.0)?", r"fpn.lateral_convs.\1"),
    (r"backbone\.fpn\.layer_blocks\.(\d+)(?:\.0)?", r"fpn.fpn_convs.\1"),
    (r"backbone\.fpn\.extra_blocks\.p6", r"fpn.extra_convs.0"),
    (r"backbone\.fpn\.extra_blocks\.p7", r"fpn.extra_convs.1"),
    (r"head\.classification_head\.conv\.(\d+)", r"head.cls_tower.\1"),
    (r"head\.classification_head\.conv\.(\d+)\.0", r"head.cls_tower.\1.conv"),
    (r"head\.classification_head\.conv\.(\d+)\.1", r"head.cls_tower.\1.norm"),
    (r"head\.regression_head\.conv\.(\d+)", r"head.reg_tower.\1"),
    (r"head\.regression_head\.conv\.(\d+)\.0", r"head.reg_tower.\1.conv"),
    (r"head\.regression_head\.conv\.(\d+)\.1", r"head.reg_tower.\1.norm"),
    (r"rpn\.head\.conv", "head.cls_tower.0"),
    (r"rpn\.head\.conv\.(\d+)\.0", r"head.cls_tower.\1.conv"),
    (r"head\.classification_head\.cls_logits|rpn\.head\.cls_logits", "head.cls_logits"),
    (r"head\.regression_head\.bbox_reg|rpn\.head\.bbox_pred", "head.bbox_regression"),
    (r"head\.regression_head\.bbox_ctrness", "head.bbox_ctrness"),
)

KINDS = {"fcos": "FCOS", "retinanet": "RetinaNet", "rpn": "Faster R-CNN or another detector with an RPN"}


def is_torchvision(names: list[str]) -> bool:
    return any(name.startswith("backbone.body.") for name in names)


def from_torchvision(file: WeightFile) -> Source:
    """The detector of a file for which :func:`is_torchvision` holds."""
    mapped, unknown = renamed(file.tensors, NAMES)
    tensors = place_in_towers(mapped)
    head = known_head(_head(file.tensors), tensors)
    settings = {"style": "pytorch", "backbone": backbone_name(tensors), **tower_settings(tensors, head)}
    classes, notes = None, ()
    if head in ("retinanet", "rpn"):
        settings["torchvision_anchors"] = True  # torchvision's default: files do not have it
    if head in ("fcos", "retinanet"):
        levels = extra_levels_from(tensors)
        settings["extra_levels"] = levels and f"{levels}_relu"
        tensors, classes = _without_background(tensors)
        if classes is not None:
            notes = (("class layer", "91 class columns are read as COCO's category ids, the first as background"),)
    if head == "fcos":
        settings |= {"norm_on_bbox": True, "centerness_on": "reg"}
        tensors = _from_cell_corners(tensors)
        notes += (
            ("box layer", "its points are the cells' corners, here the centers: the bias is moved by half a cell"),
            ("centerness layer", "its scores are the square roots of those here"),
        )
    return Source(
        f"torchvision's {KINDS.get(head, 'detector')}",
        head,
        tensors,
        counted(unknown),
        settings,
        classes,
        IMAGENET_RGB,
        notes,
    )


def _head(names: dict[str, Tensor]) -> str | None:
    if "head.regression_head.bbox_ctrness.weight" in names:
        return "fcos"
    if "head.classification_head.cls_logits.weight" in names:
        return "retinanet"
    return "rpn" if "rpn.head.cls_logits.weight" in names else None


def _without_background(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str | None, ...] | None]:
    """The class layer without column 0, which no label has, and the names of its columns."""
    anchors = num_anchors(tensors)
    columns = len(tensors["head.cls_logits.bias"]) // anchors
    layer = {
        name: tensors[name].unflatten(0, (anchors, columns))[:, 1:].flatten(0, 1)
        for name in ("head.cls_logits.weight", "head.cls_logits.bias")
    }
    return tensors | layer, COCO_COLUMNS if columns == len(COCO_COLUMNS) + 1 else None


def _from_cell_corners(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """FCOS's distances, in cells, from points that are half a cell to the left and above of this project's.

    Exact where both points are in the box: elsewhere one of the distances ends at 0, here or there. torchvision has no
    scales of the levels.
    """
    moved = tensors["head.bbox_regression.bias"] + torch.tensor([0.5, 0.5, -0.5, -0.5])
    laterals = sum(name.startswith("fpn.lateral_convs.") and name.endswith(".weight") for name in tensors)
    extra = sum(name.startswith("fpn.extra_convs.") and name.endswith(".weight") for name in tensors)
    return tensors | {"head.bbox_regression.bias": moved, "head.scales": torch.ones(laterals + extra)}
