"""Models and data sets from a configuration."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from .config import Config
from .data.coco import CocoDetection
from .data.generated import generate
from .data.paths import DatasetPaths, find_dataset
from .data.transforms import detection_transforms
from .fcos import FCOS

CACHE = Path("runs/data")
"""Where the generated data set is kept, below the working directory."""


def build_model(config: Config, num_classes: int) -> nn.Module:
    """The detector of ``config.model`` with the method's settings of ``config.mlc``."""
    model = config.model
    if model.detector not in ("fcos", "fcos-"):
        raise ValueError(f"model.detector must be 'fcos' or 'fcos-', got {model.detector!r}")
    return FCOS(
        num_classes,
        backbone=model.backbone,
        backbone_options={"weights": model.weights, "frozen_stages": model.frozen_stages, "norm": model.norm},
        centerness=model.detector == "fcos",
        mlc=config.mlc,
        box_loss=model.box_loss,
        fpn_channels=model.fpn_channels,
        num_convs=model.num_convs,
        center_sampling_radius=model.center_sampling_radius,
        norm_on_bbox=model.norm_on_bbox,
        centerness_on=model.centerness_on,
    )


def dataset_paths(config: Config, cache: Path) -> DatasetPaths:
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
    return find_dataset(root, **explicit)


def build_datasets(config: Config, cache: Path) -> tuple[CocoDetection, CocoDetection]:
    """-> (training set, validation set)."""
    data, paths = config.data, dataset_paths(config, cache)
    resize = detection_transforms(data.short_side, data.long_side)
    train = CocoDetection(
        paths.train_images,
        paths.train_annotations,
        transforms=detection_transforms(data.short_side, data.long_side, flip=data.flip),
        keep_empty=data.keep_empty,
        limit=data.limit_train,
    )
    if data.val_is_train:
        val = CocoDetection(paths.train_images, paths.train_annotations, transforms=resize, limit=data.limit_train)
    else:
        val = CocoDetection(paths.val_images, paths.val_annotations, transforms=resize)
    return train, val
