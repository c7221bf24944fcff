"""Settings of the detector."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..checks import NOT_NEGATIVE, POSITIVE, SHARE, Range, check_choices, check_numbers, check_texts

ASSIGNERS = ("atss", "task_aligned", "sim_ota", "paa", "mal")
"""Rules of label assignment beside the detectors' own."""

CLS_LOSSES = ("focal", "quality_focal", "varifocal")

TOWER_NORMS = ("gn", "gn_bias")

EXTRA_LEVELS = ("c5", "c5_relu", "p5", "p5_relu")

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "efficientnet_lite0")
"""Beside ``timm:NAME``, a model of timm."""


@dataclass(frozen=True)
class ModelConfig:
    """The detector: backbone, pyramid, head, losses and NMS."""

    detector: str = "fcos-"
    """"fcos-" (without centerness), "fcos", "retinanet" or "rpn"."""
    backbone: str = "resnet50"
    """"resnet18", "resnet34", "resnet50", "resnet101", "efficientnet_lite0" or "timm:NAME"."""
    weights: str | None = None
    """ImageNet weights to start from: the path of a file of torchvision's, "imagenet" for the weights in the package of
    efficientnet_lite0 or of timm, or None for random weights."""
    init: str | None = None
    """A trained detector to start from (--init): a checkpoint or the folder of a run, or a file of torchvision's or
    MMDetection's FCOS, RetinaNet, RPN or Faster R-CNN. It replaces model.weights. None: only the backbone may start
    from trained weights."""
    frozen_stages: int | None = None
    """Stages of the backbone that are not trained: 0 none, 1 the stem, 2 the stem and the first stage, ..., 5 all;
    None: 2 with weights or init, else 0."""
    norm: str | None = None
    """Batch norm of the backbone: "bn" is trained, "frozen_bn" keeps its statistics, "fixed" trains nothing of it;
    None: "frozen_bn" with weights or init, else "bn"."""
    style: str = "pytorch"
    """Which convolution of a ResNet's bottleneck has the stride: "pytorch" (the 3x3) or "caffe" (the first 1x1)."""
    fpn_channels: int = 256
    """Channels of the feature pyramid and of the head's towers; a multiple of 32 for heads with group norm (FCOS)."""
    num_convs: int = 4
    """3x3 convolutions in each tower of the head; RPN always has one."""
    tower_norm: str | None = None
    """FCOS, RetinaNet: norm in the towers of the head, "gn" (group norm after convolutions without bias) or "gn_bias"
    (with bias, as torchvision's FCOS); None: "gn" for FCOS, no norm for RetinaNet."""
    extra_levels: str | None = None
    """FCOS, RetinaNet: what P6 is computed from, "c5" or "p5"; "c5_relu" and "p5_relu" have a ReLU between P6 and P7.
    None: "p5_relu" for FCOS, "c5" for RetinaNet."""
    torchvision_anchors: bool = False
    """RetinaNet, RPN: anchors of whole pixels, as torchvision's; not with mmdet1."""
    box_loss: str = "iou"
    """FCOS: "iou" (-log IoU), "giou" or "linear_iou"."""
    center_sampling_radius: float | None = None
    """FCOS: only points within this distance of a gt's center, in strides, are positive; None: all points inside the
    box."""
    norm_on_bbox: bool = False
    """FCOS: regress distances in units of the stride, without the exponential."""
    centerness_on: str = "cls"
    """FCOS: the tower that predicts centerness, "cls" or "reg"."""
    centerness_weights: bool | None = None
    """FCOS: weigh the box loss by centerness; None: if centerness is predicted."""
    assigner: str | None = None
    """FCOS, RetinaNet: the rule of label assignment, "atss", "task_aligned", "sim_ota", "paa" or "mal"; None: the
    detector's own. Candidates of mutual labeling are then its positives, or with mlc.candidates=all (atss, paa, mal)
    those of the assigner."""
    cls_loss: str = "focal"
    """FCOS, RetinaNet: the classification loss, "focal", or "quality_focal" (GFL) or "varifocal" (VarifocalNet), whose
    target for a positive is the IoU of its box with its gt; with assigner "task_aligned" it is TOOD's normalized
    alignment."""
    mmdet1: bool = False
    """As in MMDetection 1.1: FCOS's normalizer and areas; anchors, box coder and smooth L1 of RetinaNet and RPN."""
    smooth_l1_beta: float | None = None
    """RetinaNet, RPN: where the box loss turns from quadratic to linear; 0 is L1; None: 0, with mmdet1 0.11 (RetinaNet)
    and 1/9 (RPN)."""
    nms: str = "rescored"
    """"rescored" (ranks by score x quality) or "iou" (IoU-Net's, ranks by predicted IoU; needs mlc.iur)."""
    nms_threshold: float | None = None
    """IoU above which a box is dropped, in 0..1; None: 0.5, RPN 0.7."""

    def __post_init__(self) -> None:
        check_texts("model", self)
        check_choices(
            "model",
            self,
            detector=("fcos", "fcos-", "retinanet", "rpn"),
            norm=("bn", "frozen_bn", "fixed"),
            style=("pytorch", "caffe"),
            box_loss=("iou", "giou", "linear_iou"),
            centerness_on=("cls", "reg"),
            nms=("rescored", "iou"),
            tower_norm=TOWER_NORMS,
            extra_levels=EXTRA_LEVELS,
            assigner=ASSIGNERS,
            cls_loss=CLS_LOSSES,
        )
        if self.backbone not in BACKBONES and not re.fullmatch(r"timm:\S+", self.backbone):
            names = ", ".join(map(repr, (*BACKBONES, "timm:NAME")))
            raise ValueError(f"model.backbone must be one of {names}, got {self.backbone!r}")
        check_numbers(
            "model",
            self,
            frozen_stages=Range(0, 5),
            fpn_channels=Range(1, 8192),
            num_convs=Range(1, 100),
            center_sampling_radius=POSITIVE,
            smooth_l1_beta=NOT_NEGATIVE,
            nms_threshold=SHARE,
        )
        if self.torchvision_anchors and self.mmdet1:
            raise ValueError("model.torchvision_anchors and model.mmdet1 are different anchors, got both")

    @property
    def class_agnostic(self) -> bool:
        """Whether the detector finds objects without their class (RPN): data with any classes can be used."""
        return self.detector == "rpn"
