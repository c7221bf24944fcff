"""The assigners of ``model.assigner``: the library's, in place of a detector's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mlc_ext import (
    Assigner,
    Assignment,
    ATSSAssigner,
    MALAssigner,
    MLCConfig,
    PAAAssigner,
    Predictions,
    SimOTAAssigner,
    TaskAlignedAssigner,
    alignment_targets,
)

RETINANET_ANCHORS = 9
"""At every location."""

SQUARE = 8
"""Side, in strides, of the square around a point that stands for it where an assigner needs anchors: ATSS's."""

_FIRST_LABEL = 1
_WITH_ALL = ("atss", "paa", "mal")


class ChosenAssigner:
    """A library's assigner in a detector. With ``points`` it assigns FCOS's points by the squares around them.

    A point can be trained to regress l, t, r, b only from within a gt. PAA, MAL and SimOTA also choose points outside
    (ATSS and TaskAligned do not). Such a positive is ignored, and such a point is no candidate of mutual labeling: it
    cannot be regressed to the gt, and it is not background. Other points keep their labels.

    Args:
        assigner: the library's.
        strides: pixels per cell of each level.
        epochs: length of the training, over which MAL's progress goes from 0 to 1.
        points: whether the detector's priors are points.
    """

    def __init__(self, assigner: Assigner, strides: Sequence[int], *, epochs: float, points: bool) -> None:
        self.assigner, self.strides, self.epochs, self.points = assigner, tuple(strides), epochs, points

    def set_epoch(self, epoch: float) -> None:
        """Sets how many epochs the model has been trained."""
        if isinstance(self.assigner, MALAssigner):
            self.assigner.progress = min(max(epoch / self.epochs, 0.0), 1.0)

    def __call__(
        self, priors: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]], predictions: Predictions | None = None
    ) -> Assignment:
        """As :class:`mlc_ext.Assigner`."""
        if not self.points:
            return self.assigner(priors, targets, predictions)
        squares = [
            torch.cat((level - SQUARE * stride / 2, level + SQUARE * stride / 2), 1)
            for level, stride in zip(priors, self.strides, strict=True)
        ]
        found = self.assigner(squares, targets, predictions)
        return keep_inside(found, torch.cat(list(priors)), torch.cat([target["boxes"] for target in targets]))


def keep_inside(found: Assignment, points: Tensor, gt_boxes: Tensor) -> Assignment:
    """``found`` without the candidates whose point does not lie in their gt; of these, positives are ignored.

    Args:
        found: of B * A priors.
        points: [A, 2] x, y, the same in every image.
        gt_boxes: [K, 4] of the batch.
    """
    if len(gt_boxes) == 0:
        return found
    boxes = gt_boxes[found.candidate_gt.clamp(min=0)].view(-1, len(points), 4)
    inside = torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), -1).amin(-1).flatten() > 0
    return Assignment(
        labels=torch.where((found.labels == 1) & ~inside, -1, found.labels),
        candidate_gt=torch.where(inside, found.candidate_gt, -1),
        originally_ignored=found.originally_ignored & inside,
        metric=None if found.metric is None else torch.where(inside, found.metric, 0),
    )


def chosen_candidates(name: str, mlc: MLCConfig) -> str:
    """``mlc.candidates`` for the assigner called ``name``; ValueError if it does not have these."""
    candidates = mlc.candidates_of("positives")
    allowed = ("positives", "all") if name in _WITH_ALL else ("positives",)
    if candidates not in allowed:
        choices = ", ".join(map(repr, allowed))
        raise ValueError(f"mlc.candidates must be {choices} or None with model.assigner={name!r}, got {candidates!r}")
    return candidates


def build_assigner(name: str, strides: Sequence[int], mlc: MLCConfig, *, epochs: float, points: bool) -> ChosenAssigner:
    """The assigner called ``name`` ("atss", "task_aligned", "sim_ota", "paa" or "mal").

    Args:
        name: of the rule; its values are the library's defaults, which are the papers'. ATSS takes ``topk`` locations
            of a level, so with RetinaNet's anchors nine times as many anchors, as in the authors' code.
        strides: pixels per cell of each level.
        mlc: ``candidates`` is read: None and "positives" are the assigner's positives, "all" is for atss, paa and mal.
        epochs: of the training.
        points: whether the priors are FCOS's points; else they are RetinaNet's anchors.

    Raises:
        ValueError: the assigner does not have these candidates.
    """
    candidates = chosen_candidates(name, mlc)
    per_location = 1 if points else RETINANET_ANCHORS
    makers: dict[str, Callable[[], Assigner]] = {
        "atss": lambda: ATSSAssigner(topk=ATSSAssigner.topk * per_location, candidates=candidates),
        "task_aligned": lambda: TaskAlignedAssigner(first_label=_FIRST_LABEL),
        "sim_ota": lambda: SimOTAAssigner(first_label=_FIRST_LABEL, strides=tuple(strides)),
        "paa": lambda: PAAAssigner(first_label=_FIRST_LABEL, candidates=candidates),
        "mal": lambda: MALAssigner(first_label=_FIRST_LABEL, candidates=candidates),
    }
    return ChosenAssigner(makers[name](), strides, epochs=epochs, points=points)


def box_quality(assigner: Assigner, assignment: Assignment, ious: Tensor, num_gts: int) -> Tensor:
    """[N] the target of a positive in a classification loss of quality, a constant: TOOD's normalized alignment with
    the task-aligned assigner, else the IoU of its decoded box with its gt."""
    if isinstance(assigner, ChosenAssigner) and isinstance(assigner.assigner, TaskAlignedAssigner):
        return alignment_targets(assignment, ious, num_gts)
    return ious.detach()
