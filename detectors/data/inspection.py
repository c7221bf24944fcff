"""Counts of a data set by class and size, and what is likely to harm a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..config.settings import DataConfig
from .coco.boxes import BoxTable
from .coco.dataset import CocoDetection

SMALL, LARGE = 32.0, 96.0
"""Square roots of the areas between COCO's small, medium and large objects, in pixels of the file."""

_TINY = 8.0
"""A box with a side below this, in pixels, is tiny: the finest stride of the pyramid."""
_MANY_TINY = 0.1  # of the boxes
_IMBALANCE = 100  # most frequent class to rarest
_FEW = 10  # objects of a class
_SHOWN = 5  # names in a warning


@dataclass(frozen=True)
class ClassCount:
    """Objects of a class, without crowds."""

    name: str
    objects: int
    images: int
    small: int
    medium: int
    large: int


def class_counts(dataset: CocoDetection) -> list[ClassCount]:
    """The counts of every class, in the order of labels."""
    table = dataset.table
    objects = ~table.iscrowd
    sides, labels, owners = np.sqrt(table.areas[objects]), table.labels[objects], table.owners[objects]
    found = []
    for label, name in enumerate(dataset.category_names, 1):
        own = labels == label
        small, large = int((sides[own] < SMALL).sum()), int((sides[own] >= LARGE).sum())
        count = int(own.sum())
        found.append(ClassCount(name, count, len(np.unique(owners[own])), small, count - small - large, large))
    return found


def images_without_objects(dataset: CocoDetection) -> int:
    """Images without a box, or with crowds alone."""
    table = dataset.table
    return len(dataset) - len(np.unique(table.owners[~table.iscrowd]))


def resized_sides(table: BoxTable, sizes: np.ndarray, data: DataConfig) -> np.ndarray:
    """[N] shorter side of each box in pixels of the image as evaluation resizes it; the factors of
    ``data.scale_jitter`` are on these sizes."""
    short, long = sizes.min(1), sizes.max(1)
    scale = np.minimum(data.evaluated_side / short, data.long_side / long)[table.owners]
    return np.minimum(table.boxes[:, 2] - table.boxes[:, 0], table.boxes[:, 3] - table.boxes[:, 1]) * scale


def likely_harm(dataset: CocoDetection, data: DataConfig) -> list[str]:
    """Warnings on tiny boxes, imbalance, and classes with few objects, each in a line."""
    warnings = []
    table, counts = dataset.table, class_counts(dataset)
    sides = resized_sides(table, dataset.sizes, data)[~table.iscrowd]
    tiny = float(np.mean(sides < _TINY)) if len(sides) else 0.0
    if tiny > _MANY_TINY:
        warnings.append(
            f"tiny boxes: {tiny:.0%} have a side below {_TINY:g} pixels in images resized to {data.evaluated_side} x "
            f"{data.long_side} (data.short_side, data.long_side)"
        )
    absent = [each.name for each in counts if not each.objects]
    few = [each for each in counts if 0 < each.objects < _FEW]
    there = sorted((each for each in counts if each.objects), key=lambda each: each.objects)
    if absent:
        warnings.append(
            f"categories without objects: {len(absent)} of {len(counts)}: {_listed(absent)} (data.categories names "
            "those to train on)"
        )
    if few:
        warnings.append(
            f"categories with fewer than {_FEW} objects: {_listed([f'{e.name} ({e.objects})' for e in few])}"
        )
    if there and there[-1].objects >= _IMBALANCE * there[0].objects:
        most, least = there[-1], there[0]
        warnings.append(f"imbalance: {most.objects} objects of {most.name}, {least.objects} of {least.name}")
    return warnings


def shared_images(datasets: Mapping[str, CocoDetection]) -> list[str]:
    """A warning if one file is in several splits."""
    seen: set[str] = set()
    shared: set[str] = set()
    for dataset in datasets.values():
        own = {str(dataset.image_path(index).resolve()) for index in range(len(dataset))}
        shared |= own & seen
        seen |= own
    if not shared:
        return []
    return [f"{len(shared)} images are in both splits, first {min(shared)}: these validation images are trained on"]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
