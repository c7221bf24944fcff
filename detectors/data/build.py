"""The data sets of a configuration."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from .. import distributed
from ..config.settings import Config
from .augmentation.pipeline import training_transforms, with_mosaics
from .coco.dataset import CocoDetection
from .coco.part import Part
from .errors import DatasetNotFound
from .generated.dataset import generate
from .loading.loader import DetectionLoader, build_loader
from .paths import DatasetPaths, find_dataset
from .transforms import Compose, Resize

_LOG = logging.getLogger(__name__)

CACHE = Path("runs/data")
"""Where the generated data set is kept, below the working directory."""


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
    """The preprocessing of images in evaluation and prediction."""
    return Compose([Resize(config.data.evaluated_side, config.data.long_side)])


def build_datasets(config: Config, cache: Path, *, progress: bool = False) -> tuple[CocoDetection, CocoDetection]:
    """-> (training set, validation set), not yet verified, with the same classes unless the detector is class-agnostic.

    ValueError if there is no object to train on, if the classes have other names, or if settings exclude each other.
    """
    data = config.data
    if data.val_fraction is not None and data.val_is_train:
        raise ValueError("data.val_fraction holds images out, data.val_is_train evaluates on the training images")
    if data.val_fraction is None and not data.val_is_train:
        dataset_paths(config, cache)  # reports both splits if both are missing
    train = build_training_set(config, cache, progress=progress)
    require_objects(train)
    val = build_validation_set(config, cache, progress=progress)
    if not config.model.class_agnostic:
        val.label_as(train.classes.categories, str(train.annotation_file))
    log_warnings(train, val)
    return train, val


def build_training_set(config: Config, cache: Path, *, progress: bool = False) -> CocoDetection:
    """The training set, which may have no object; without the images that ``data.val_fraction`` holds out."""
    data = config.data
    paths = dataset_paths(config, cache, ("train",))
    return CocoDetection(
        paths.train_images,
        paths.train_annotations,
        transforms=training_transforms(data),
        keep_empty=data.keep_empty,
        limit=data.limit_train,
        part=_part(config, cache, held_out=False),
        **_common(config, progress),
    )


def log_warnings(*datasets: CocoDetection, again: bool = False) -> None:
    """Logs the warnings that were not logged before; ``again``: those too that were."""
    for dataset in datasets:
        if again:
            dataset.findings.reported.clear()
        for line in dataset.warnings():
            if line not in dataset.findings.reported:
                dataset.findings.reported.add(line)
                _LOG.warning("%s", line)


def require_objects(train: CocoDetection) -> None:
    """ValueError if the training set has no object."""
    if train.num_objects == 0:
        raise ValueError(f"nothing to learn, no object in {train.summary()}")


def check_same_data(*datasets: CocoDetection) -> None:
    """SetupError if a rank has other images or objects than rank 0, for example an incomplete copy; all ranks call it.

    With different data the ranks would take different numbers of steps.
    """
    mine = [(dataset.image_ids, dataset.num_objects) for dataset in datasets]
    digests = distributed.gather(hashlib.sha256(repr(mine).encode()).hexdigest())
    for rank, digest in enumerate(digests):
        if digest != digests[0]:
            raise distributed.SetupError(f"rank {rank} has other images or objects than rank 0: is a copy incomplete?")


def build_training_loader(config: Config, train: CocoDetection, device: torch.device) -> DetectionLoader:
    """This rank's batches of the training set, shuffled.

    ValueError if ``schedule.batch_size`` does not give each part of each rank an image.
    """
    schedule, ranks = config.schedule, distributed.world_size()
    if schedule.batch_size < ranks * schedule.accumulate:
        raise ValueError(
            f"schedule.batch_size must give each of {ranks} processes x {schedule.accumulate} parts an image, got "
            f"{schedule.batch_size}"
        )
    return build_loader(
        with_mosaics(train, config.data, schedule.epochs),
        schedule.batch_size,
        shuffle=True,
        num_workers=config.data.workers,
        seed=config.run.seed,
        rank=distributed.rank(),
        world_size=ranks,
        pin_memory=device.type == "cuda",
    )


def verify(config: Config, *datasets: CocoDetection, progress: bool = False) -> None:
    """With ``data.verify``, decodes all images once and leaves the broken ones out. Logs the sets' warnings.

    All ranks must call it, because they exchange their findings: a failed rank would make the others wait.
    """
    if config.data.verify:
        for dataset in datasets:
            dataset.verify(workers=config.data.workers, progress=progress)
    log_warnings(*datasets)


def build_validation_set(config: Config, cache: Path, *, progress: bool = False) -> CocoDetection:
    """The validation set; with ``data.val_fraction`` the images held out, with ``data.val_is_train`` the training
    images.

    ValueError if it has annotations, but none can be used; if ``data.val_fraction`` holds out no object, or contradicts
    other settings or the data; if the first images of ``data.limit_val`` have no object.
    """
    part = _part(config, cache, held_out=not config.data.val_is_train)
    split = "val" if part is None and not config.data.val_is_train else "train"
    paths = dataset_paths(config, cache, (split,))
    dataset = CocoDetection(
        getattr(paths, f"{split}_images"),
        getattr(paths, f"{split}_annotations"),
        transforms=evaluation_transforms(config),
        limit=config.data.validation_limit,
        part=part,
        **_common(config, progress),
    )
    if config.data.validation_limit is not None and not dataset.num_boxes:
        raise ValueError(
            f"no object to evaluate on in the first {len(dataset)} images by id of {dataset.name} (data.limit_val; of "
            "the training images data.limit_train)"
        )
    require_usable(dataset)
    if part is not None:
        if not dataset.num_objects:
            raise ValueError(f"no object to evaluate on in {dataset.summary()}")
        _LOG.info("validation images: %d, %s", len(dataset), part)
    return dataset


def _part(config: Config, cache: Path, *, held_out: bool) -> Part | None:
    """The part of the training images that ``data.val_fraction`` means; None without it.

    ValueError if the settings or the data have a validation split too.
    """
    data = config.data
    if data.val_fraction is None:
        return None
    split = data.val_annotations or data.val_images
    if split is None:
        try:
            split = dataset_paths(config, cache, ("val",)).val_annotations
        except DatasetNotFound:
            return Part(data.val_fraction, data.val_seed, held_out)
    raise ValueError(
        f"data.val_fraction={data.val_fraction:g} is for data without a validation split, but there is one: {split} "
        "(data.val_fraction=none uses it)"
    )


def require_usable(dataset: CocoDetection) -> None:
    """ValueError if the file has annotations, but none can be used."""
    if dataset.findings.num_annotations and not dataset.num_boxes:
        raise ValueError(f"no annotation can be used: {dataset.warnings()[0]}")


def _common(config: Config, progress: bool) -> dict[str, object]:
    data = config.data
    return {"categories": data.categories, "strict": data.strict, "cache": data.cache, "progress": progress}
