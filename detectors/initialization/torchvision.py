"""The name map of torchvision's FCOS, RetinaNet (v1, v2), Faster R-CNN and what is built like it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.backbones.base import IMAGENET_RGB
from .coco_classes import COCO_COLUMNS
from .files import WeightFile
from .source import NameMap, Source, backbone_name, counted, place_in_towers, tower_settings

NAMES = NameMap(
    (
        (r"backbone\.body\.(.+)", r"backbone.\1"),
        # since torchvision 0.14 each convolution of the pyramid and of the towers is in a Sequential
        (r"backbone\.fpn\.inner_blocks\.(\d+)(?:\.0)?\.(weight|bias)", r"fpn.lateral_convs.\1.\2"),
        (r"backbone\.fpn\.layer_blocks\.(\d+)(?:\.0)?\.(weight|bias)", r"fpn.fpn_convs.\1.\2"),
        (r"backbone\.fpn\.extra_blocks\.p6\.(\w+)", r"fpn.extra_convs.0.\1"),
        (r"backbone\.fpn\.extra_blocks\.p7\.(\w+)", r"fpn.extra_convs.1.\1"),
        (r"head\.classification_head\.conv\.(\d+)\.(weight|bias)", r"head.cls_tower.\1.\2"),
        (r"head\.classification_head\.conv\.(\d+)\.0\.(weight|bias)", r"head.cls_tower.\1.conv.\2"),
        (r"head\.classification_head\.conv\.(\d+)\.1\.(weight|bias)", r"head.cls_tower.\1.norm.\2"),
        (r"head\.regression_head\.conv\.(\d+)\.(weight|bias)", r"head.reg_tower.\1.\2"),
        (r"head\.regression_head\.conv\.(\d+)\.0\.(weight|bias)", r"head.reg_tower.\1.conv.\2"),
        (r"head\.regression_head\.conv\.(\d+)\.1\.(weight|bias)", r"head.reg_tower.\1.norm.\2"),
        (r"head\.classification_head\.cls_logits\.(\w+)", r"head.cls_logits.\1"),
        (r"head\.regression_head\.bbox_reg\.(\w+)", r"head.bbox_regression.\1"),
        (r"head\.regression_head\.bbox_ctrness\.(\w+)", r"head.bbox_ctrness.\1"),
        (r"rpn\.head\.conv\.(weight|bias)", r"head.cls_tower.0.\1"),
        (r"rpn\.head\.conv\.(\d+)\.0\.(weight|bias)", r"head.cls_tower.\1.conv.\2"),
        (r"rpn\.head\.cls_logits\.(\w+)", r"head.cls_logits.\1"),
        (r"rpn\.head\.bbox_pred\.(\w+)", r"head.bbox_regression.\1"),
    )
)

KINDS = {"fcos": "FCOS", "retinanet": "RetinaNet", "rpn": "Faster R-CNN or another detector with an RPN"}


def is_torchvision(names: list[str]) -> bool:
    return any(name.startswith("backbone.body.") for name in names)


def from_torchvision(file: WeightFile) -> Source:
    """The detector of a file for which :func:`is_torchvision` holds."""
    mapped, unknown = NAMES(file.tensors)
    tensors = place_in_towers(mapped)
    head = _head(file.tensors)
    settings = {"style": "pytorch", "backbone": backbone_name(tensors), **tower_settings(tensors, head)}
    classes, notes = None, ()
    if head in ("retinanet", "rpn"):
        settings["torchvision_anchors"] = True  # the default, which no file tells
    if head in ("fcos", "retinanet"):
        settings["extra_levels"] = _extra_levels(tensors)
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


def _extra_levels(tensors: dict[str, Tensor]) -> str | None:
    if "fpn.extra_convs.0.weight" not in tensors:
        return None
    weight = tensors["fpn.extra_convs.0.weight"]
    return "p5_relu" if weight.shape[1] == weight.shape[0] else "c5_relu"  # as LastLevelP6P7 decides


def _without_background(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str | None, ...] | None]:
    """The class layer without column 0, which no label has, and the names of its columns."""
    num_anchors = len(tensors["head.bbox_regression.bias"]) // 4
    columns = len(tensors["head.cls_logits.bias"]) // num_anchors
    layer = {
        name: tensors[name].unflatten(0, (num_anchors, columns))[:, 1:].flatten(0, 1)
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
