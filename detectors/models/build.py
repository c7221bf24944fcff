"""The detector of a configuration."""

from __future__ import annotations

import dataclasses

from ..config.settings import Config, ModelConfig
from .assigners import build_assigner, chosen_candidates
from .dense_detector import DenseDetector
from .fcos import FCOS
from .postprocess import Postprocessor
from .retinanet import RetinaNet
from .rpn import PROPOSALS, RPN

# settings that only some detectors have
_CLASSES = ("num_convs", "tower_norm", "extra_levels", "assigner", "cls_loss")
_FCOS = ("box_loss", "center_sampling_radius", "norm_on_bbox", "centerness_weights", *_CLASSES)

_DETECTORS: dict[str, type[DenseDetector]] = {"fcos": FCOS, "fcos-": FCOS, "retinanet": RetinaNet, "rpn": RPN}

_ONLY = {
    "fcos": (*_FCOS, "centerness_on"),
    "fcos-": _FCOS,
    "retinanet": ("smooth_l1_beta", "torchvision_anchors", *_CLASSES),
    "rpn": ("smooth_l1_beta", "torchvision_anchors"),
}

_MMDET1_BETA = {RetinaNet: 0.11, RPN: 1 / 9}
"""``model.smooth_l1_beta`` of MMDetection 1.1."""


def build_model(config: Config, num_classes: int) -> DenseDetector:
    """The detector of ``config.model`` with the method's settings of ``config.mlc``.

    Raises ValueError for a setting that the detector does not have.
    """
    detector = _own_detector(config, num_classes)
    if config.model.assigner is not None:  # in place of its own: it needs the strides of the levels
        detector.assigner = build_assigner(
            config.model.assigner,
            detector.strides,
            config.mlc,
            epochs=config.schedule.epochs,
            points=isinstance(detector, FCOS),
        )
    return detector


def _own_detector(config: Config, num_classes: int) -> DenseDetector:
    """The detector with its own assigner."""
    model = config.model
    _check_settings(config)
    detector = _DETECTORS[model.detector]
    changes: dict[str, object] = {"nms": model.nms}
    if model.nms_threshold is not None:
        changes["iou_threshold"] = model.nms_threshold
    common = {
        "backbone": model.backbone,
        "mlc": config.mlc,
        "fpn_channels": model.fpn_channels,
        "mmdet1": model.mmdet1,
        "postprocessor": dataclasses.replace(PROPOSALS if detector is RPN else Postprocessor(), **changes),
        "backbone_options": {
            "weights": model.weights if model.init is None else None,  # else the weights come from there
            "trained": model.init is not None,
            "frozen_stages": model.frozen_stages,
            "norm": model.norm,
            "style": model.style,
        },
    }
    towers = {
        "num_convs": model.num_convs,
        "norm": tower_norm(model),
        "extra_levels": extra_levels(model),
        "cls_loss": model.cls_loss,
    }
    if detector is FCOS:
        return FCOS(
            num_classes,
            centerness=model.detector == "fcos",
            centerness_weights=model.centerness_weights,
            box_loss=model.box_loss,
            center_sampling_radius=model.center_sampling_radius,
            norm_on_bbox=model.norm_on_bbox,
            centerness_on=model.centerness_on,
            **towers,
            **common,
        )
    beta = model.smooth_l1_beta
    if beta is None:
        beta = _MMDET1_BETA[detector] if model.mmdet1 else 0.0
    anchors = {"torchvision_anchors": model.torchvision_anchors, "smooth_l1_beta": beta}
    if detector is RetinaNet:
        return RetinaNet(num_classes, **anchors, **towers, **common)
    return RPN(**anchors, **common)


def extra_levels(model: ModelConfig) -> str:
    """``model.extra_levels``, or the detector's own."""
    return model.extra_levels or _DETECTORS[model.detector].EXTRA_LEVELS


def tower_norm(model: ModelConfig) -> str | None:
    """``model.tower_norm``, or the detector's own."""
    return model.tower_norm or _DETECTORS[model.detector].TOWER_NORM


def _check_settings(config: Config) -> None:
    model = config.model
    limited = {name for names in _ONLY.values() for name in names}
    for setting in dataclasses.fields(model):
        if setting.name in limited - set(_ONLY[model.detector]) and getattr(model, setting.name) != setting.default:
            raise ValueError(f"model.{setting.name} is no setting of {model.detector!r}")
    if model.assigner is not None and model.center_sampling_radius is not None:
        raise ValueError(f"model.center_sampling_radius is no setting of the assigner {model.assigner!r}")
    if model.assigner is not None:
        chosen_candidates(model.assigner, config.mlc)  # checked
    if model.nms == "iou" and not config.mlc.iur:
        raise ValueError("model.nms='iou' ranks by the predicted IoU: it needs mlc.iur")
