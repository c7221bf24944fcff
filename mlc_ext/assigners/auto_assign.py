"""AutoAssignCriterion: a loss that weights every prior in a gt by what it predicts, instead of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .._errors import check_shape
from ..losses import normalizer
from ..ops import box_iou, paired_box_iou
from ._inputs import GT_CHUNK, Predictions, of_levels, on_host, read_inputs
from ._negative_loss import EPSILON, NegativeLoss
from ._pairs import pairs_inside
from ._selection import centers, in_any


class AutoAssignCriterion(nn.Module):
    """AutoAssign (Zhu et al., 2020): every point in a gt is a positive and a negative, with separate weights.

    The weight as a positive is a learned prior of its class, a Gaussian around the gt's center in units of strides,
    times exp(3 P), P the point's joint confidence: score x objectness x exp(-box_weight (1 - GIoU)). The weight as a
    negative falls from 1 to 0 as the IoU of the point's box rises within the gt. The criterion has the assigners'
    inputs and returns losses; it makes no :class:`mlc_ext.Assignment`.

    Args:
        num_classes: C.
        first_label: the label of class column 0, as in :func:`mlc_ext.task_targets`.
        strides: pixels per cell of each level.
        box_weight, pos_weight, neg_weight, center_weight: 5, 0.25, 0.75 and 0.75.

    Attributes:
        mean: [C, 2] parameter, the prior's center in strides, x and y; starts at 0.
        sigma: [C, 2] parameter, its standard deviation in strides; starts at 1.

    Source: Zhu et al. 2020, section 3, in the form of MMDetection 3.3 without its ``force_topk``.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        first_label: int,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        box_weight: float = 5.0,
        pos_weight: float = 0.25,
        neg_weight: float = 0.75,
        center_weight: float = 0.75,
    ) -> None:
        super().__init__()
        self.first_label, self.strides = first_label, tuple(strides)
        self.box_weight, self.pos_weight = box_weight, pos_weight
        self.neg_weight, self.center_weight = neg_weight, center_weight
        self.mean = nn.Parameter(torch.zeros(num_classes, 2))
        self.sigma = nn.Parameter(torch.ones(num_classes, 2))

    def forward(
        self, priors: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]], predictions: Predictions | None = None
    ) -> dict[str, Tensor]:
        """The losses of a batch. No host synchronization.

        Args:
            priors, targets: as :class:`Assigner`. A point in a crowd box that is in no gt is not a negative.
            predictions: all of it is read, with gradients.

        Returns:
            A dict of scalars: ``positive``, of each gt's weighted mean of P; ``negative``, the focal loss of the joint
            score with the negative weights; ``center``, which keeps the prior's mass in the gts.

        Raises:
            ValueError: as :class:`Assigner`; ``objectness_logits`` are missing, or the class columns are not C.
        """
        op = "AutoAssignCriterion"
        inputs = read_inputs(op, priors, targets, predictions, self.first_label)
        if predictions is None or predictions.objectness_logits is None:
            raise ValueError(f"{op}: objectness_logits are needed")
        check_shape(op, "objectness_logits", predictions.objectness_logits, inputs.logits.shape[:2])
        if inputs.logits.shape[2] != len(self.mean):
            raise ValueError(f"{op}: cls_logits must have {len(self.mean)} classes, got {inputs.logits.shape[2]}")
        gts, columns = inputs.gts, inputs.columns
        points, stride = centers(inputs.priors), of_levels(op, inputs.levels, self.strides)
        logits, objectness, boxes = (
            x.to(points.dtype) for x in (predictions.cls_logits, predictions.objectness_logits, predictions.boxes)
        )
        # every parameter gets a gradient on every rank, whether or not there are gts
        positive = negative = boxes[:, :0].sum()
        center = mass = self.mean.sum() * 0 + self.sigma.sum() * 0
        of_images = zip(torch.split(gts.boxes, gts.counts), torch.split(columns, gts.counts), gts.crowds, strict=True)
        for image, (gt_boxes, column, crowd) in enumerate(of_images):
            count = len(gt_boxes)
            found = _Image(points, stride, logits[image], objectness[image], boxes[image])
            weights = self._negative_weights(points, boxes[image], gt_boxes, column, crowd)
            loss = NegativeLoss.apply(found.logits, found.objectness, weights)  # type: ignore[no-untyped-call]
            negative = negative + loss
            if count > 0:
                loss, of_gts = self._positive(found, gt_boxes, column)
                positive, mass = positive + loss, mass + of_gts
                center = center + torch.where(of_gts > 0, count / of_gts.clamp(min=EPSILON), 0) / len(targets)
        return {
            "positive": self.pos_weight * positive / normalizer(boxes.new_full((), len(gts.boxes))),
            "negative": self.neg_weight * negative / normalizer(mass),
            "center": self.center_weight * center,
        }

    def _positive(self, image: _Image, gt_boxes: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the gts' losses, and the sum of the prior over the points in each gt."""
        losses, masses = [], []
        for part, column in zip(torch.split(gt_boxes, GT_CHUNK), torch.split(columns, GT_CHUNK), strict=True):
            inputs = (image, part, column)
            if on_host(gt_boxes):  # its pairs are few: they are kept for the backward pass
                loss, mass = self._positive_chunk(*inputs)
            else:
                loss, mass = checkpoint(self._positive_chunk, *inputs, use_reentrant=False, preserve_rng_state=False)
            losses.append(loss)
            masses.append(mass)
        return torch.stack(losses).sum(), torch.stack(masses).sum()

    def _positive_chunk(self, image: _Image, gt_boxes: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        points, stride, logits, objectness, boxes = image
        pairs = pairs_inside(points, gt_boxes)
        column, gt_box = columns[pairs.gt], gt_boxes[pairs.gt]
        giou = paired_box_iou(boxes[pairs.point], gt_box, kind="giou")
        joint = logits[pairs.point, column].sigmoid() * objectness[pairs.point].sigmoid()
        confidence = joint * (-self.box_weight * (1 - giou)).exp()
        shift = (points[pairs.point] - centers(gt_box)) / stride[pairs.point, None] - self.mean[column]
        prior = (-(shift**2) / (2 * self.sigma[column] ** 2)).sum(-1).exp()
        prior = torch.where(pairs.inside, prior, 0)
        weight = (3 * confidence).exp() * prior
        mean = pairs.sum_per_gt(weight * confidence) / pairs.sum_per_gt(weight).clamp(min=EPSILON)
        loss = F.binary_cross_entropy(mean.clamp(max=1), torch.ones_like(mean), reduction="sum")
        return loss, prior.sum()

    @torch.no_grad()
    def _negative_weights(
        self, points: Tensor, boxes: Tensor, gt_boxes: Tensor, columns: Tensor, crowd: Tensor
    ) -> Tensor:
        """[A, C] in [0, 1]. Where several gts of one class contain a point, the last gives its weight."""
        num_priors, num_classes = len(points), len(self.mean)
        best = boxes.new_zeros(num_priors)
        for part in torch.split(gt_boxes, GT_CHUNK):
            if len(part) > 0:
                best = torch.maximum(best, box_iou(part, boxes).amax(0))
        weights = boxes.new_ones(num_priors * num_classes + 1)  # the last entry takes what is not used
        in_gt = torch.zeros(num_priors + 1, dtype=torch.bool, device=boxes.device)
        for part, column in zip(torch.split(gt_boxes, GT_CHUNK), torch.split(columns, GT_CHUNK), strict=True):
            pairs = pairs_inside(points, part)
            sharpness = 1 / (1 - best[pairs.point]).clamp(min=EPSILON)
            low, high = pairs.extremes_per_gt(sharpness)
            weight = 1 - (sharpness - low + EPSILON) / (high - low + EPSILON)
            entry = torch.where(pairs.inside, pairs.point * num_classes + column[pairs.gt], len(weights) - 1)
            last = torch.full_like(weights, -1, dtype=torch.int64).scatter_reduce_(0, entry, pairs.gt, "amax")
            entry = torch.where(last[entry] == pairs.gt, entry, len(weights) - 1)
            weights.index_copy_(0, entry, weight)
            in_gt.index_fill_(0, torch.where(pairs.inside, pairs.point, num_priors), True)
        weights = weights[:-1].view(num_priors, num_classes)
        if len(crowd) > 0:
            weights = torch.where((in_any(points, crowd) & ~in_gt[:-1])[:, None], 0, weights)
        return weights


class _Image(NamedTuple):
    """The priors of an image and what is predicted for them."""

    points: Tensor
    """[A, 2]"""
    stride: Tensor
    """[A]"""
    logits: Tensor
    """[A, C]"""
    objectness: Tensor
    """[A]"""
    boxes: Tensor
    """[A, 4]"""
