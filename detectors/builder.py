"""Models and data sets from a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from .config import Config
from .data.coco import CocoDetection
from .data.generated import generate
from .data.paths import DatasetPaths, find_dataset
from .data.transforms import Compose, detection_transforms
from .dense import DenseDetector
from .fcos import FCOS
from .postprocess import Postprocessor
from .retinanet import RetinaNet
from .rpn import PROPOSALS, RPN

CACHE = Path("runs/data")
"""Where the generated data set is kept, below the working directory."""


# settings that only some detectors have
_FCOS = ("box_loss", "center_sampling_radius", "norm_on_bbox", "centerness_weights", "num_convs")
_ONLY = {
    "fcos": (*_FCOS, "centerness_on"),
    "fcos-": _FCOS,
    "retinanet": ("smooth_l1_beta", "num_convs"),
    "rpn": ("smooth_l1_beta",),
}


def build_model(config: Config, num_classes: int) -> DenseDetector:
    """The detector of ``config.model`` with the method's settings of ``config.mlc``.

    Raises ValueError for an unknown detector, or a setting that it does not have.
    """
    model = config.model
    _check_settings(config)
    common = {
        "backbone": model.backbone,
        "mlc": config.mlc,
        "fpn_channels": model.fpn_channels,
        "backbone_options": {
            "weights": model.weights,
            "frozen_stages": model.frozen_stages,
            "norm": model.norm,
            "style": model.style,
        },
    }
    options = {"nms": model.nms}
    if model.nms_threshold is not None:
        options["iou_threshold"] = model.nms_threshold
    if model.detector in ("fcos", "fcos-"):
        return FCOS(
            num_classes,
            centerness=model.detector == "fcos",
            centerness_weights=model.centerness_weights,
            box_loss=model.box_loss,
            num_convs=model.num_convs,
            center_sampling_radius=model.center_sampling_radius,
            norm_on_bbox=model.norm_on_bbox,
            centerness_on=model.centerness_on,
            v1=model.v1,
            postprocessor=Postprocessor(**options),
            **common,
        )
    if model.detector == "retinanet":
        beta = (0.11 if model.v1 else 0.0) if model.smooth_l1_beta is None else model.smooth_l1_beta
        return RetinaNet(
            num_classes,
            v1=model.v1,
            smooth_l1_beta=beta,
            num_convs=model.num_convs,
            postprocessor=Postprocessor(**options),
            **common,
        )
    beta = (1 / 9 if model.v1 else 0.0) if model.smooth_l1_beta is None else model.smooth_l1_beta
    postprocessor = dataclasses.replace(PROPOSALS, **options)
    return RPN(v1=model.v1, smooth_l1_beta=beta, postprocessor=postprocessor, **common)


def _check_settings(config: Config) -> None:
    model = config.model
    if model.detector not in _ONLY:
        known = ", ".join(map(repr, _ONLY))
        raise ValueError(f"model.detector must be one of {known}, got {model.detector!r}")
    limited = {name for names in _ONLY.values() for name in names}
    for setting in dataclasses.fields(model):
        if setting.name in limited - set(_ONLY[model.detector]) and getattr(model, setting.name) != setting.default:
            raise ValueError(f"model.{setting.name} is no setting of {model.detector!r}")
    if model.nms == "iou" and not config.mlc.iur:
        raise ValueError("model.nms='iou' ranks by the predicted IoU: it needs mlc.iur")


def dataset_paths(config: Config, cache: Path, splits: Sequence[str] = ("train", "val")) -> DatasetPaths:
    """Where the images and annotations lie; the generated set is drawn into ``cache`` if no data are named."""
    data = config.data
    root = data.data
    explicit = {
        "train_images": data.train_images,
        "train_annotations": data.train_annotations,
        "val_images": data.val_images,
        "val_annotations": data.val_annotations,
    }
    if root is None and not any(explicit.values()):
        root = generate(
            cache / f"generated_{data.generated_size}_{data.generated_images}",
            num_train=data.generated_images,
            num_val=max(1, data.generated_images // 4),
            image_size=data.generated_size,
        )
    return find_dataset(root, splits=splits, **explicit)


def evaluation_transforms(config: Config) -> Compose:
    """What an image goes through before it is evaluated or predicted on."""
    return detection_transforms(config.data.evaluated_side, config.data.long_side)


def build_datasets(config: Config, cache: Path, *, progress: bool = False) -> tuple[CocoDetection, CocoDetection]:
    """-> (training set, validation set), not yet verified. ValueError if there is no object to train on."""
    data, paths = config.data, dataset_paths(config, cache)
    train = CocoDetection(
        paths.train_images,
        paths.train_annotations,
        transforms=detection_transforms(data.short_side, data.long_side, flip=data.flip),
        keep_empty=data.keep_empty,
        limit=data.limit_train,
        **_common(config, progress),
    )
    require_objects(train)
    return train, build_validation_set(config, cache, progress=progress)


def require_objects(train: CocoDetection) -> None:
    """ValueError if there is nothing to learn."""
    if train.num_objects == 0:
        raise ValueError(f"nothing to learn, no object in {train.summary()}")


def verify(config: Config, *datasets: CocoDetection, progress: bool = False) -> None:
    """With ``data.verify``, decodes all images once and leaves the broken ones out.

    All ranks must call it, and not where one of them may have failed before: they wait for each other's findings.
    """
    if config.data.verify:
        for dataset in datasets:
            dataset.verify(workers=config.data.workers, progress=progress)


def build_validation_set(config: Config, cache: Path, *, progress: bool = False) -> CocoDetection:
    """The set that is evaluated on; with ``data.val_is_train`` the training images."""
    split = "train" if config.data.val_is_train else "val"
    paths = dataset_paths(config, cache, (split,))
    return CocoDetection(
        getattr(paths, f"{split}_images"),
        getattr(paths, f"{split}_annotations"),
        transforms=evaluation_transforms(config),
        limit=config.data.limit_train if config.data.val_is_train else None,
        **_common(config, progress),
    )


def _common(config: Config, progress: bool) -> dict[str, object]:
    data = config.data
    return {"categories": data.categories, "strict": data.strict, "cache": data.cache, "progress": progress}
