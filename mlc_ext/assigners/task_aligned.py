"""TaskAlignedAssigner: positives by the product of score and IoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import at_least
from ..assignment import Assignment
from ..ops import paired_box_iou, topk_alignment
from ._inputs import Predictions, read_inputs, without_autocast
from ._selection import CENTER_MARGIN, assemble, best_gt, centers, is_inside, no_candidates


@dataclass(frozen=True, kw_only=True)
class TaskAlignedAssigner:
    """TOOD's task-aligned rule (Feng et al., 2021): the ``topk`` priors of largest score^alpha * IoU^beta of each gt.

    The score is that of the gt's class, the IoU that of the decoded box. Of the ``topk``, those are positive whose
    metric is above 0 and whose center lies in the gt. A prior that is positive for several gts belongs to that of the
    largest IoU, the first of equals. ``metric`` is the alignment metric of a positive with its gt, before TOOD's
    normalization (:func:`alignment_targets`). Candidates of mutual labeling are the positives.

    Args:
        first_label: the label of class column 0, as in :func:`mlc_ext.task_targets`.
        topk, alpha, beta: TOOD's 13, 1 and 6.

    Source: Feng et al. 2021, section 3.2, in the form of MMDetection 3.3.
    """

    first_label: int
    topk: int = 13
    alpha: float = 1.0
    beta: float = 6.0

    def __post_init__(self) -> None:
        at_least("TaskAlignedAssigner", "topk", self.topk, 1)
        if not self.beta > 0:
            raise ValueError(f"TaskAlignedAssigner: beta must be positive, got {self.beta}")

    @torch.no_grad()
    def __call__(
        self, priors: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]], predictions: Predictions | None = None
    ) -> Assignment:
        """As :class:`Assigner`. Memory is O(A + K)."""
        op = "TaskAlignedAssigner"
        inputs = read_inputs(op, priors, targets, predictions, self.first_label)
        points, boxes, gts = centers(inputs.priors), inputs.boxes, inputs.gts
        num_priors, total = len(points), len(targets) * len(points)
        if total == 0:
            return no_candidates(points, gts)
        with without_autocast(boxes):  # it would copy all logits as float32
            found = topk_alignment(
                boxes,
                gts.boxes,
                gts.image,
                self.topk,
                logits=inputs.logits,
                columns=inputs.columns,
                alpha=self.alpha,
                beta=self.beta,
            )
        metric, prior = found.metric, found.prior.clamp(min=0)  # [K, k]
        gt = torch.arange(len(gts.boxes), device=prior.device)[:, None].expand_as(prior)
        valid = (metric > 0) & is_inside(points[prior], gts.boxes[:, None], CENTER_MARGIN)
        prior = prior + gts.image[:, None] * num_priors
        iou = paired_box_iou(boxes.flatten(0, 1)[prior.flatten()], gts.boxes[gt.flatten()])
        positive_gt, _ = best_gt(prior.flatten(), gt.flatten(), iou, valid.flatten(), total)
        own = valid & (positive_gt[prior] == gt)
        of_prior = metric.new_zeros(total).scatter_reduce(
            0, prior.flatten(), torch.where(own, metric, 0).flatten(), "amax"
        )
        return assemble(positive_gt, None, points, gts, of_prior)


def alignment_targets(assignment: Assignment, ious: Tensor, num_gts: int) -> Tensor:
    """TOOD's soft classification targets: the metric, scaled so that a gt's largest becomes its largest IoU.

    Args:
        assignment: of :class:`TaskAlignedAssigner`.
        ious: [N] IoU of each candidate's decoded box with its gt, as ``TaskTargets.ious``.
        num_gts: K of the batch.

    Returns:
        [N] float32, 0 for priors that are not positive; a constant.

    Raises:
        ValueError: the assignment has no metric.

    Source: Feng et al. 2021, section 3.2: t-hat.
    """
    if assignment.metric is None:
        raise ValueError("alignment_targets: the assignment has no metric")
    metric = torch.where(assignment.labels == 1, assignment.metric, 0)
    ious = torch.where(assignment.labels == 1, ious.detach().float(), 0)
    group = torch.where(assignment.labels == 1, assignment.candidate_gt, num_gts)
    zeros = metric.new_zeros(num_gts + 1)
    top_metric, top_iou = (zeros.scatter_reduce(0, group, x, "amax")[group] for x in (metric, ious))
    return torch.where(top_metric > 0, metric / top_metric * top_iou, 0)
