"""SimOTAAssigner: positives of lowest cost, as many for each gt as its predictions fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .._dtypes import at_least_float32
from .._errors import at_least
from ..assignment import Assignment
from ..ops import box_iou, paired_box_iou
from ._inputs import GT_CHUNK, Predictions, of_levels, read_inputs
from ._selection import assemble, centers, is_inside, largest, selected

OUTSIDE_COST = 100_000.0
"""Added to the cost of a prior outside of the gt or of its center square, as in MMDetection."""

LOG_MARGIN = 1e-7
"""Added to an IoU before its logarithm, as in MMDetection."""


@dataclass(frozen=True, kw_only=True)
class SimOTAAssigner:
    """YOLOX's SimOTA (Ge et al., 2021): a gt takes its k priors of lowest cost, k by its largest predicted IoUs.

    Allowed are the priors whose center lies in some gt of the image, or within ``center_radius`` strides of a gt's
    center along both axes. The cost of a prior and a gt is the binary cross-entropy of all classes, plus ``iou_weight``
    times -log(IoU of the decoded box), plus 100000 unless the prior lies both in that gt and near its center. k is the
    sum of the gt's ``topk`` largest IoUs with allowed priors, rounded down, at least 1. A prior that several gts take
    belongs to the gt of its lowest cost in the image, the first of equals. The choice among equal costs of a gt
    is not specified; costs above 100000 are rounded to multiples of 1 / 128 (float32), as MMDetection's are.

    ``metric`` is the IoU of a positive's decoded box with its gt: YOLOX's soft classification target. Candidates of
    mutual labeling are the positives.

    Args:
        first_label: the label of class column 0, as in :func:`mlc_ext.task_targets`.
        strides: pixels per cell of each level.
        center_radius, topk, cls_weight, iou_weight: YOLOX's 2.5, 10, 1 and 3.

    Source: Ge et al. 2021 (YOLOX), section 2.1, in the form of MMDetection 3.3.
    """

    first_label: int
    strides: Sequence[int] = (8, 16, 32, 64, 128)
    center_radius: float = 2.5
    topk: int = 10
    cls_weight: float = 1.0
    iou_weight: float = 3.0

    def __post_init__(self) -> None:
        at_least("SimOTAAssigner", "topk", self.topk, 1)

    @torch.no_grad()
    def __call__(
        self, priors: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]], predictions: Predictions | None = None
    ) -> Assignment:
        """As :class:`Assigner`. Memory is O(A) for a chunk of gts."""
        op = "SimOTAAssigner"
        inputs = read_inputs(op, priors, targets, predictions, self.first_label)
        points, boxes, gts, columns = centers(inputs.priors), inputs.boxes, inputs.gts, inputs.columns
        reach = of_levels(op, inputs.levels, self.strides) * self.center_radius

        chosen, offset = [], 0
        for image, count in enumerate(gts.counts):
            own = slice(offset, offset + count)
            gt = self._assign_image(points, reach, boxes[image], inputs.logits[image], gts.boxes[own], columns[own])
            chosen.append(torch.where(gt >= 0, gt + offset, -1))
            offset += count
        positive_gt = torch.cat(chosen)
        if len(gts.boxes) == 0:
            return assemble(positive_gt, None, points, gts, torch.zeros_like(positive_gt))
        metric = paired_box_iou(boxes.flatten(0, 1), gts.boxes[positive_gt.clamp(min=0)])
        return assemble(positive_gt, None, points, gts, metric)

    def _assign_image(
        self, points: Tensor, reach: Tensor, boxes: Tensor, logits: Tensor, gt_boxes: Tensor, columns: Tensor
    ) -> Tensor:
        """[A] int64: the gt of the image that each prior is positive for, -1 for none."""
        num_priors, num_gts = len(points), len(gt_boxes)
        chosen = torch.full((num_priors,), -1, device=points.device)
        if num_gts == 0:
            return chosen
        allowed = torch.zeros(num_priors, dtype=torch.bool, device=points.device)
        for part in torch.split(gt_boxes, GT_CHUNK):
            inside, near = _inside_and_near(points, reach, part)
            allowed |= (inside | near).any(0)
        rows = selected(allowed)  # on a CPU the cost of the other priors is not computed
        if rows is not None:
            points, reach, boxes, logits, allowed = (x[rows] for x in (points, reach, boxes, logits, allowed))
        n = len(boxes)
        if n == 0:
            return chosen
        k = min(self.topk, n)
        # the cross-entropy of one-hot classes: sum_c softplus(x_c) - x_label
        logits = at_least_float32(logits).T.contiguous()
        background = F.softplus(logits).sum(0).mul_(self.cls_weight)
        lowest = boxes.new_full((n,), torch.inf)
        lowest_gt, taken_gt = (torch.full((n,), -1, device=boxes.device) for _ in range(2))
        takers = torch.zeros(n + 1, dtype=torch.int64, device=boxes.device)
        for start in range(0, num_gts, GT_CHUNK):
            gt = slice(start, start + GT_CHUNK)
            inside, near = _inside_and_near(points, reach, gt_boxes[gt])
            iou = box_iou(gt_boxes[gt], boxes).mul_(allowed)
            size = iou.gather(1, largest(iou, k)).sum(1).int().clamp(min=1)
            cost = background - logits[columns[gt]] * self.cls_weight
            cost.add_(iou.add_(LOG_MARGIN).log_(), alpha=-self.iou_weight)
            cost.add_(~(inside & near), alpha=OUTSIDE_COST)
            cost.masked_fill_(~allowed, torch.inf)
            prior = largest(-cost, k)
            value = cost.gather(1, prior)
            taken = (torch.arange(k, device=prior.device) < size[:, None]) & value.isfinite()
            prior = torch.where(taken, prior, n).flatten()
            takers.index_add_(0, prior, torch.ones_like(prior))
            index = torch.arange(start, start + len(size), device=prior.device)[:, None].expand(-1, k).flatten()
            taken_gt = F.pad(taken_gt, (0, 1)).index_copy_(0, prior, index)[:-1]
            least, least_gt = cost.min(0)
            better = least < lowest
            lowest = torch.where(better, least, lowest)
            lowest_gt = torch.where(better, least_gt + start, lowest_gt)
        result = torch.where(takers[:-1] > 1, lowest_gt, taken_gt)
        return result if rows is None else chosen.index_copy_(0, rows, result)


def _inside_and_near(points: Tensor, reach: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """[g, A] bool each: the point lies in the gt; in the square around its center. Strictly."""
    inside = is_inside(points, boxes[:, None])
    x, y = points[:, 0], points[:, 1]
    cx, cy = centers(boxes)[..., None].unbind(1)
    near = (x > cx - reach) & (x < cx + reach) & (y > cy - reach) & (y < cy + reach)
    return inside, near
