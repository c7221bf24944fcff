"""MALAssigner: positives of largest joint confidence in a bag of anchors that shrinks during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .._dtypes import at_least_float32
from .._errors import at_least, choice
from ..assignment import Assignment
from ..ops import topk_alignment
from ..ops.mutual_labels import IGNORED
from ._inputs import Predictions, read_inputs
from ._selection import assemble, best_gt, centers, no_candidates

MIN_SIDE = 1e-6
"""The least width and height of a box, in pixels, whose logarithm is taken."""


@dataclass(kw_only=True)
class MALAssigner:
    """MAL's anchor selection (Ke et al., 2020): of each gt's bag of anchors, those of largest joint confidence.

    The bag of a gt has the ``bag_size`` anchors of largest IoU with it, above 0, the first of equals.
    The joint confidence of an anchor is its score for the gt's class times exp(-L), where L is ``box_weight`` times the
    smooth L1 loss of its box deltas. Of a bag of n anchors, floor(n * (1 - progress)) + 1 are selected, at most n: all
    at the start of training, one at its end. (The paper goes from all anchors to one; this number is our reading of
    it.) A selected anchor is positive, for the gt of its largest confidence where several select it. The other anchors
    of a bag are ignored; the public code lowers their weight as negatives instead. Anchor depression, which perturbs
    features between two selections, is not label assignment and is not done here.

    Candidates of mutual labeling are the positives; with ``candidates="all"`` the whole bags, whose other anchors are
    originally ignored. ``metric`` is the joint confidence of a candidate.

    Args:
        first_label: the label of class column 0, as in :func:`mlc_ext.task_targets`.
        progress: the part of training that is done, in [0, 1]; the paper's lambda. Set it before a step.
        bag_size: anchors of a bag, 50.
        box_weight, beta: of the smooth L1 loss, 0.75 and 0.11.
        delta_scale: what deltas of (center, size) are multiplied with; (10, 5).
        candidates: "positives" or "all".

    Source: Ke et al. 2020, section 3; the values are those of the authors' code.
    """

    first_label: int
    progress: float = 0.0
    bag_size: int = 50
    box_weight: float = 0.75
    beta: float = 0.11
    delta_scale: tuple[float, float] = (10.0, 5.0)
    candidates: str = "positives"

    def __post_init__(self) -> None:
        choice("MALAssigner", "candidates", self.candidates, ("positives", "all"))
        at_least("MALAssigner", "bag_size", self.bag_size, 1)

    @torch.no_grad()
    def __call__(
        self, priors: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]], predictions: Predictions | None = None
    ) -> Assignment:
        """As :class:`Assigner`, for anchors. Memory is O(A + K).

        ValueError too if ``progress`` is outside [0, 1].
        """
        op = "MALAssigner"
        if not 0 <= self.progress <= 1:
            raise ValueError(f"{op}: progress must be in [0, 1], got {self.progress}")
        inputs = read_inputs(op, priors, targets, predictions, self.first_label)
        anchors, gts = inputs.priors, inputs.gts
        num_priors, total = len(anchors), len(targets) * len(anchors)

        if total == 0:
            return no_candidates(centers(anchors), gts)
        bags = topk_alignment(anchors[None], gts.boxes, torch.zeros_like(gts.image), self.bag_size, beta=1.0)
        in_bag, prior = bags.prior >= 0, bags.prior.clamp(min=0)  # [K, k]
        row = prior + gts.image[:, None] * num_priors
        confidence = self.confidence(
            inputs.logits.flatten(0, 1), inputs.boxes.flatten(0, 1), anchors, gts.boxes, inputs.columns, row
        )
        confidence = torch.where(in_bag, confidence, -1.0)
        rank = confidence.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        size = in_bag.sum(1, keepdim=True)
        number = (size * (1 - self.progress)).floor() + 1
        chosen = in_bag & (rank < number)

        gt = torch.arange(len(gts.boxes), device=prior.device)[:, None].expand_as(prior).flatten()
        pair = (row.flatten(), gt, confidence.flatten())
        positive_gt, of_positive = best_gt(*pair, chosen.flatten(), total)
        bag_gt, of_bag = best_gt(*pair, in_bag.flatten(), total)
        metric = torch.where(positive_gt >= 0, of_positive, of_bag)
        found = assemble(positive_gt, bag_gt if self.candidates == "all" else None, centers(anchors), gts, metric)
        found.labels = torch.where((bag_gt >= 0) & (positive_gt < 0), IGNORED, found.labels)
        return found

    def confidence(
        self, logits: Tensor, boxes: Tensor, anchors: Tensor, gt_boxes: Tensor, columns: Tensor, row: Tensor
    ) -> Tensor:
        """[K, k] joint confidence of gts and the priors [K, k] of their bags, rows of logits and boxes of the batch."""
        score = at_least_float32(logits[row, columns[:, None]]).sigmoid()
        center, size = _center_and_size(boxes[row])
        gt_center, gt_size = _center_and_size(gt_boxes[:, None])
        _, anchor_size = _center_and_size(anchors[row % len(anchors)])
        of_center, of_size = self.delta_scale
        off = torch.cat(((center - gt_center) / anchor_size * of_center, (size / gt_size).log() * of_size), -1)
        loss = F.smooth_l1_loss(off, torch.zeros_like(off), reduction="none", beta=self.beta).sum(-1)
        return (score * (-self.box_weight * loss).exp()).to(anchors.dtype)


def _center_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).clamp(min=MIN_SIDE)
