"""What a detector does with an image: its detections, and who trains which task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ..models.dense_detector import DenseDetector
from ..models.targets import Target, prepare_targets
from .drawing import draw_detections, draw_priors, side_by_side

SHOWN_DETECTIONS = 10
"""Detections drawn on an image, the best ones."""


@dataclass
class View:
    """What a detector does with one image and its objects."""

    image: Tensor
    """uint8 [3, H, W]."""
    boxes: Tensor
    """[G, 4] the objects, without crowd."""
    labels: Tensor
    """[G] their classes, from 1."""
    detections: dict[str, Tensor]
    centers: Tensor
    """[n, 2] (x, y) of the candidate priors, those of any object."""
    gt: Tensor
    """[n] the object, of these G, that each is a candidate of."""
    ious: Tensor
    """[n] I_j, of the decoded box with its object."""
    scores: Tensor
    """[n] S_j, for the class of its object."""
    cls_positive: Tensor
    """[n] bool: candidates that are positives for classification. Ignored ones are in neither mask."""
    cls_negative: Tensor
    loc_positive: Tensor
    """[n] bool: candidates that are positives for localization; the others are negatives."""
    thresholds: tuple[Tensor, Tensor] | None
    """([G] of scores, [G] of IoUs) where labeling was mutual; NaN without candidates."""

    def picture(self, names: Sequence[str] | None) -> Image.Image:
        """Detections, classification labels and localization labels, side by side."""
        best = {key: value[:SHOWN_DETECTIONS] for key, value in self.detections.items()}
        used = self.cls_positive | self.cls_negative
        return side_by_side(
            [
                draw_detections(self.image, best, names),
                draw_priors(self.image, self.centers[used], self.cls_positive[used], self.boxes),
                draw_priors(self.image, self.centers, self.loc_positive, self.boxes),
            ],
            ["detections", "classification", "localization"],
        )


@torch.no_grad()
def look(
    model: DenseDetector, images: Sequence[Tensor], targets: Sequence[Target], *, mutual: bool | None = None
) -> list[View]:
    """The model's detections and its labels of both tasks on uint8 images, in evaluation mode (batch norm's fixed
    statistics): labeled the baseline's way or mutually, by default as it trains now. RPN's sample is drawn from these
    labels.
    """
    was_training = model.training
    model.eval()
    try:
        device = next(model.parameters()).device
        outputs, feature_sizes, image_sizes = model.head_outputs([image.to(device) for image in images])
        detections = model.detections(outputs, feature_sizes, image_sizes)
        objects = prepare_targets(targets, len(images), device, model.num_classes)
        priors, _, assignment, task = model.label(outputs, feature_sizes, objects, mutual=mutual)
    finally:
        model.train(was_training)
    centers = priors if priors.shape[1] == 2 else (priors[:, :2] + priors[:, 2:]) / 2
    views, first = [], 0
    for k, image in enumerate(images):
        mine = slice(k * len(priors), (k + 1) * len(priors))
        candidate = assignment.candidate_gt[mine] >= 0
        cls_labels = task.cls_labels[mine][candidate]
        own = slice(first, first + len(objects[k]["boxes"]))
        views.append(
            View(
                image=image,
                boxes=objects[k]["boxes"],
                labels=objects[k]["labels"],
                detections=detections[k],
                centers=centers[candidate],
                gt=assignment.candidate_gt[mine][candidate] - first,
                ious=task.ious[mine][candidate],
                scores=task.scores[mine][candidate],
                cls_positive=cls_labels > 0,
                cls_negative=cls_labels == 0,
                loc_positive=task.loc_positive[mine][candidate],
                thresholds=None if task.thresholds is None else tuple(tau[own] for tau in task.thresholds),
            )
        )
        first = own.stop
    return views
