"""TaskAlignedAssigner: positives by the product of score and IoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._dtypes import at_least_float32
from .._errors import at_least
from ..assignment import Assignment
from ..ops import box_iou, paired_box_iou
from ._inputs import Predictions, read_inputs
from ._selection import CENTER_MARGIN, assemble, best_gt, centers, is_inside, largest, selected


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
        """As :class:`Assigner`. Memory is O(A) for a chunk of gts."""
        op = "TaskAlignedAssigner"
        inputs = read_inputs(op, priors, targets, predictions, self.first_label)
        points, boxes, gts = centers(inputs.priors), inputs.boxes, inputs.gts
        num_priors, images = len(points), len(targets)

        k = min(self.topk, num_priors)
        pairs = []
        for image, start, end in gts.spans():
            metric = box_iou(gts.boxes[start:end], boxes[image])  # [g, A] IoUs, replaced by the metric
            self._align(metric, inputs.logits[image], inputs.columns[start:end])
            prior = largest(metric, k)
            pairs.append((prior + image * num_priors, metric.gather(1, prior)))
        if not pairs:
            none = torch.full((images * num_priors,), -1, device=points.device)
            return assemble(none, None, points, gts, torch.zeros_like(none))
        prior, metric = (torch.cat(column) for column in zip(*pairs, strict=True))  # [K, k]
        gt = torch.arange(len(gts.boxes), device=prior.device)[:, None].expand_as(prior)
        valid = (metric > 0) & is_inside(points[prior % num_priors], gts.boxes[:, None], CENTER_MARGIN)
        total = images * num_priors
        iou = paired_box_iou(boxes.flatten(0, 1)[prior.flatten()], gts.boxes[gt.flatten()])
        positive_gt, _ = best_gt(prior.flatten(), gt.flatten(), iou, valid.flatten(), total)
        own = valid & (positive_gt[prior] == gt)
        of_prior = metric.new_zeros(total).scatter_reduce(
            0, prior.flatten(), torch.where(own, metric, 0).flatten(), "amax"
        )
        return assemble(positive_gt, None, points, gts, of_prior)

    def _align(self, iou: Tensor, logits: Tensor, columns: Tensor) -> None:
        """IoUs [g, A] to score^alpha * IoU^beta, in place, of logits [A, C]."""
        rows = selected(iou.flatten())  # on a CPU the scores of the pairs without overlap are not read
        if rows is None:
            score, base = logits[:, columns].T, iou
        else:
            gt = rows.div(iou.shape[1], rounding_mode="floor")
            score, base = logits[rows - gt * iou.shape[1], columns[gt]], iou.view(-1)[rows]
        score = at_least_float32(score).sigmoid()
        if self.alpha != 1:
            score.pow_(self.alpha)
        # (x^(beta / 2))^2: a whole exponent of 3 is far cheaper than one of 6
        metric = base.pow(self.beta / 2).square_().mul_(score)
        if rows is None:
            iou.copy_(metric)
        else:
            iou.view(-1).index_copy_(0, rows, metric)


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
