"""The contract of the assigners, and their inputs as tensors of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .._dtypes import common_dtype
from .._errors import check_range, check_shape
from ..assignment import Assignment

# gts compared at a time: memory is O(priors x this), however many gts an image has
GT_CHUNK = 64


@dataclass
class Predictions:
    """What a detector predicts for the A priors of each of B images, the levels one after another.

    Assigners that learn from predictions read them as constants. Half types are computed in float32.
    """

    cls_logits: Tensor
    """[B, A, C] class logits."""
    boxes: Tensor
    """[B, A, 4] decoded boxes, xyxy pixels. Decode them in float32."""
    objectness_logits: Tensor | None = None
    """[B, A] logits that AutoAssign multiplies with the class scores; other assigners do not read them."""


class Assigner(Protocol):
    """The contract of the assigners. No host synchronization on CUDA, unless an assigner's page says otherwise."""

    def __call__(
        self,
        priors: Sequence[Tensor],
        targets: Sequence[Mapping[str, Tensor]],
        predictions: Predictions | None = None,
        /,
    ) -> Assignment:
        """Assigns the priors of every image.

        Args:
            priors: of each level l, [A_l, 4] xyxy anchors or [A_l, 2] points (x, y), in pixels, the same in every
                image; A of all levels. MaxIoU, ATSS, PAA and MAL need anchors.
            targets: one dict per image, at least one: ``boxes`` [G, 4] xyxy pixels; ``labels`` [G] int64 where the
                assigner has a ``first_label``; optionally ``crowd`` [C, 4] xyxy. Other keys are ignored.
            predictions: of the batch, read as constants; not read by MaxIoU, FCOS and ATSS.

        Returns:
            The :class:`mlc_ext.Assignment` of B * A priors; gt indices are those of the concatenated ``boxes``.

        Raises:
            TypeError: ``priors`` is one tensor. ValueError: predictions are missing or of another shape, the numbers of
            levels and strides disagree, or (CPU only) a label is out of range.
        """
        ...


@dataclass
class GtBatch:
    """The gts of a batch, the images one after another."""

    boxes: Tensor
    """[K, 4], at least float32."""
    counts: list[int]
    """The number of gts of each image."""
    crowds: list[Tensor]
    """[C_i, 4] of each image."""

    @classmethod
    def of(cls, targets: Sequence[Mapping[str, Tensor]], dtype: torch.dtype) -> GtBatch:
        boxes = [target["boxes"].detach().to(dtype) for target in targets]
        crowds = [target.get("crowd", target["boxes"][:0]).detach().to(dtype) for target in targets]
        return cls(torch.cat(boxes), [len(b) for b in boxes], crowds)

    @property
    def image(self) -> Tensor:
        """[K] int64: the image of each gt; filled on the device, so that the host does not wait for a copy."""
        filled = [self.boxes.new_full((n,), i, dtype=torch.int64) for i, n in enumerate(self.counts)]
        return torch.cat(filled)


@dataclass
class Inputs:
    """The inputs of an assigner that reads predictions, all constants in one dtype of at least float32."""

    levels: list[Tensor]
    """[A_l, 2 or 4] priors of each level."""
    priors: Tensor
    """[A, 2 or 4]"""
    logits: Tensor
    """[B, A, C] as given: they are converted where they are read."""
    boxes: Tensor
    """[B, A, 4]"""
    gts: GtBatch
    columns: Tensor
    """[K] the class column of each gt."""


def read_inputs(
    op: str,
    priors: Sequence[Tensor],
    targets: Sequence[Mapping[str, Tensor]],
    predictions: Predictions | None,
    first_label: int,
) -> Inputs:
    """ValueError where predictions are missing or not of the batch's priors, or (CPU only) a label is out of range."""
    check_levels(op, priors)
    if predictions is None:
        raise ValueError(f"{op}: predictions are needed")
    logits, boxes = predictions.cls_logits.detach(), predictions.boxes.detach()
    images, num_priors = len(targets), sum(len(level) for level in priors)
    if logits.dim() != 3 or logits.shape[:2] != (images, num_priors):
        raise ValueError(f"{op}: cls_logits must have shape [{images}, {num_priors}, C], got {list(logits.shape)}")
    check_shape(op, "boxes", boxes, (images, num_priors, 4))
    dtype = common_dtype(priors[0], boxes)
    levels = [level.detach().to(dtype) for level in priors]
    labels = torch.cat([target["labels"] for target in targets]).long()
    if on_host(labels):
        check_range(op, "labels", labels, first_label, first_label + logits.shape[2] - 1)
    gts = GtBatch.of(targets, dtype)
    return Inputs(levels, torch.cat(levels), logits, boxes.to(dtype), gts, labels - first_label)


def check_levels(op: str, priors: Sequence[Tensor]) -> None:
    """TypeError for one tensor, whose rows would be taken for levels."""
    if isinstance(priors, Tensor):
        raise TypeError(f"{op}: priors must be a list with one tensor per level, got a Tensor")


def of_levels(op: str, levels: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """[A]: the value of each prior's level, filled on the device: the host would wait for the copy of a list."""
    if len(levels) != len(values):
        raise ValueError(f"{op}: {len(levels)} levels of priors for {len(values)} strides")
    return torch.cat([level.new_full((len(level),), value) for level, value in zip(levels, values, strict=True)])


def on_host(x: Tensor) -> bool:
    """Whether Python may read a tensor's values without waiting for a device."""
    return x.device.type == "cpu"


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which autocast is off for x's device, if the device has it (meta has not)."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
