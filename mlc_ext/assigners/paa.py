"""PAAAssigner: positives by a mixture of two Gaussians over each gt's losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .._dtypes import at_least_float32
from .._errors import at_least, choice
from ..assignment import Assignment
from ..ops import paired_box_iou
from ._inputs import Predictions, of_levels, read_inputs
from ._mixture import fit_mixture
from ._selection import row_chunks, selected
from .max_iou import MaxIoUAssigner


@dataclass(frozen=True, kw_only=True)
class PAAAssigner:
    """PAA (Kim and Lee, 2020): a mixture of two Gaussians parts each gt's anchors into positives and the rest.

    An anchor first belongs to the gt of its largest IoU, if that is at least ``iou``; every gt forces its best anchors.
    Its loss is the focal loss of all its classes plus ``box_weight`` times the GIoU loss of its decoded box. Of every
    gt and level the ``topk`` anchors of lowest loss enter the gt's mixture. Positive are the anchors of the component
    of low loss, with a loss of at most that of the likeliest of them. A gt with fewer than two such anchors gets no
    positive.

    Candidates of mutual labeling are the positives; with ``candidates="all"`` also the other anchors that entered the
    mixture. These are negatives of PAA, and originally ignored for mutual labeling. Anchors on crowd are ignored as by
    :class:`MaxIoUAssigner`; one that was first matched to a gt is not. ``metric`` is exp(-loss) of a candidate, in
    (0, 1].

    Args:
        first_label: the label of class column 0, as in :func:`mlc_ext.task_targets`.
        iou, topk, box_weight, focal_alpha, focal_gamma: PAA's 0.1, 9, 1.3, 0.25 and 2.
        candidates: "positives" or "all".

    Source: Kim and Lee 2020, section 3.1 and Figure 3c, in the form of MMDetection 3.3.
    """

    first_label: int
    iou: float = 0.1
    topk: int = 9
    box_weight: float = 1.3
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    candidates: str = "positives"

    def __post_init__(self) -> None:
        choice("PAAAssigner", "candidates", self.candidates, ("positives", "all"))
        at_least("PAAAssigner", "topk", self.topk, 1)

    @torch.no_grad()
    def __call__(
        self, priors: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]], predictions: Predictions | None = None
    ) -> Assignment:
        """As :class:`Assigner`, for anchors. Memory is O(B * A + K)."""
        op = "PAAAssigner"
        inputs = read_inputs(op, priors, targets, predictions, self.first_label)
        anchors, gts = inputs.priors, inputs.gts
        matched = MaxIoUAssigner(high=self.iou, low=self.iou)(anchors, targets)
        nothing = torch.zeros_like(matched.labels, dtype=torch.float32)
        if len(gts.boxes) == 0 or len(anchors) == 0:
            matched.metric = nothing
            return matched

        level = of_levels(op, inputs.levels, range(len(priors))).long().repeat(len(targets))
        gt = matched.candidate_gt
        positive = matched.labels == 1
        rows = selected(positive)
        if rows is not None:
            gt, level, positive = (x[rows] for x in (gt, level, positive))
        predicted = inputs.logits.flatten(0, 1), inputs.boxes.flatten(0, 1)
        losses = self.losses(*predicted, gts.boxes, inputs.columns, gt.clamp(min=0), rows)
        num_groups = len(gts.boxes) * len(priors)
        group = torch.where(positive, gt * len(priors) + level, num_groups)
        table, entered = _lowest_of_groups(losses, group, num_groups, self.topk)
        accepted = self.accept(
            torch.where(entered, losses[table], torch.inf).view(len(gts.boxes), -1), entered.view(len(gts.boxes), -1)
        )
        index = table if rows is None else rows[table]
        n = len(matched.labels)
        places = (torch.where(kept.flatten(), index, n) for kept in (accepted, entered))
        none = torch.zeros(n + 1, dtype=torch.bool, device=index.device)
        is_positive, is_candidate = (none.index_fill(0, place, True)[:-1] for place in places)
        candidate = is_candidate if self.candidates == "all" else is_positive
        labels = torch.where(matched.labels == 1, is_positive.to(torch.int8), matched.labels)
        fit = (-losses).exp().float()
        fit = fit if rows is None else nothing.index_copy_(0, rows, fit)
        return Assignment(
            labels,
            torch.where(candidate, matched.candidate_gt, -1),
            originally_ignored=candidate & ~is_positive,
            metric=torch.where(candidate, fit, 0),
        )

    def losses(
        self, logits: Tensor, boxes: Tensor, gt_boxes: Tensor, columns: Tensor, gt: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """[n] the loss of anchors with their gts [n]: of logits [N, C] and boxes [N, 4], all or ``rows`` [n]."""
        if rows is None:
            rows = torch.arange(len(logits), device=logits.device)
        parts = (at_least_float32(logits[part]) for (part,) in row_chunks(rows))
        background = torch.cat([self._of_background(part).sum(1) for part in parts])
        boxes, x = boxes[rows], at_least_float32(logits[rows, columns[gt]])
        others = (background - self._of_background(x)).clamp(min=0)  # of sums: they may differ by their rounding
        foreground = (1 - x.sigmoid()).pow(self.focal_gamma) * F.softplus(-x) * self.focal_alpha
        giou = paired_box_iou(boxes, gt_boxes[gt], kind="giou")
        return others + foreground + self.box_weight * (1 - giou)

    def _of_background(self, logits: Tensor) -> Tensor:
        """The focal loss of each logit if its class is background."""
        # softplus(x) = -log(sigmoid(-x)), and x itself where sigmoid(-x) is too small; faster than F.softplus
        rest = logits.neg().sigmoid_().clamp_(min=torch.finfo(logits.dtype).tiny).log_().neg_()
        entropy = torch.maximum(rest, logits, out=rest)
        return logits.sigmoid().pow_(self.focal_gamma).mul_(entropy).mul_(1 - self.focal_alpha)

    def accept(self, losses: Tensor, entered: Tensor) -> Tensor:
        """[G, n] bool: which of each gt's anchors are positive, by the mixture of their losses [G, n]."""
        losses, order = losses.sort(dim=1, stable=True)
        valid = entered.gather(1, order)
        mixture = fit_mixture(losses, valid)
        low = valid & (mixture.component == 0)
        likelihood = torch.where(low, mixture.log_likelihood, -torch.inf)
        place = torch.arange(losses.shape[1], device=losses.device)
        positive = low & (place <= likelihood.argmax(1, keepdim=True)) & (valid.sum(1, keepdim=True) >= 2)
        return torch.zeros_like(positive).scatter_(1, order, positive)


def _lowest_of_groups(values: Tensor, group: Tensor, num_groups: int, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest values of each group, the lower index first.

    Args:
        values: [N] at least 0, compared in float32. group: [N] int64; ``num_groups`` for an entry without a group.

    Returns:
        ([num_groups * k] int64 indices into values, 0 where a group has fewer; [num_groups * k] bool, which exist).
    """
    # the bits of floats that are not negative rise with them
    key = (group << 32) + values.float().view(torch.int32)
    index = key.sort(stable=True).indices
    ordered = group[index]
    starts = torch.searchsorted(ordered, torch.arange(num_groups + 1, device=group.device))
    rank = torch.arange(len(values), device=group.device) - starts[ordered]
    slot = torch.where((rank < k) & (ordered < num_groups), ordered * k + rank, num_groups * k)
    table = torch.full((num_groups * k + 1,), -1, device=group.device).index_copy_(0, slot, index)[:-1]
    return table.clamp(min=0), table >= 0
