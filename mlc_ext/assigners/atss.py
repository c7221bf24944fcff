"""ATSSAssigner: positives by a threshold that each gt's nearest anchors give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._dtypes import at_least_float32
from .._errors import at_least, choice
from ..assignment import Assignment
from ..ops import paired_box_iou
from ._inputs import GT_CHUNK, GtBatch, Predictions, check_levels, on_host
from ._selection import CENTER_MARGIN, assemble, best_gt, centers, is_inside, largest, no_candidates

# distances computed at a time on a CPU, where they stay in the cache
_CACHED = 1 << 18


@dataclass(frozen=True)
class ATSSAssigner:
    """ATSS (Zhang et al., 2020): the threshold of a gt is the mean plus the standard deviation of its candidates' IoUs.

    A gt's candidates are the ``topk`` anchors of each level whose centers are nearest to its own. Positive are those
    whose IoU with the gt reaches the threshold and whose center lies in the gt. An anchor that is positive for several
    gts is assigned to the gt of the largest IoU, of equals to the first. The choice among equal distances is not
    specified.

    Candidates of mutual labeling are the positives; with ``candidates="all"`` also the other candidates of a gt, each
    of the gt of its largest IoU. These are negatives of ATSS, and originally ignored for mutual labeling. ``metric`` is
    the IoU of the anchor with its gt.

    Args:
        topk: anchors of a level that are candidates of a gt.
        candidates: "positives" or "all".

    Source: Zhang et al. 2020, Algorithm 1, in the form of MMDetection 3.3.
    """

    topk: int = 9
    candidates: str = "positives"

    def __post_init__(self) -> None:
        choice("ATSSAssigner", "candidates", self.candidates, ("positives", "all"))
        at_least("ATSSAssigner", "topk", self.topk, 1)

    @torch.no_grad()
    def __call__(
        self, priors: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]], predictions: Predictions | None = None
    ) -> Assignment:
        """As :class:`Assigner`, for anchors. Memory is O(A + K)."""
        check_levels("ATSSAssigner", priors)
        levels = [at_least_float32(level.detach()) for level in priors]
        anchors = torch.cat(levels)
        points, num_priors = centers(anchors), len(anchors)
        gts = GtBatch.of(targets, anchors.dtype)
        num_gts, total = len(gts.boxes), len(gts.counts) * num_priors
        if num_gts == 0:
            return no_candidates(points, gts)

        prior = self._nearest([centers(level) for level in levels], centers(gts.boxes))  # [n, K]
        gt = torch.arange(num_gts, device=prior.device).expand_as(prior)
        boxes = gts.boxes.expand(*prior.shape, 4)
        iou = paired_box_iou(anchors[prior.flatten()], boxes.reshape(-1, 4)).view(prior.shape)
        inside = is_inside(points[prior], boxes, CENTER_MARGIN)
        deviation = iou.std(0) if len(iou) > 1 else 0  # of one candidate there is none
        positive = (iou >= iou.mean(0) + deviation) & inside
        pair = ((prior + gts.image * num_priors).flatten(), gt.flatten(), iou.flatten())
        positive_gt, metric = best_gt(*pair, positive.flatten(), total)
        other_gt = None
        if self.candidates == "all":
            other_gt, of_other = best_gt(*pair, torch.ones_like(positive).flatten(), total)
            metric = torch.where(positive_gt >= 0, metric, of_other)
        return assemble(positive_gt, other_gt, points, gts, metric)

    def _nearest(self, levels: Sequence[Tensor], gt_centers: Tensor) -> Tensor:
        """[n, K] int64: the anchors of all levels whose centers [A_l, 2] are nearest to each gt's, level by level."""
        found, offset = [], 0
        for points in levels:
            x, y = points.T.contiguous()  # with strides, broadcasting is slow
            rows = max(1, _CACHED // max(1, len(x))) if on_host(x) else GT_CHUNK
            k, nearest = min(self.topk, len(x)), []
            for gt in torch.split(gt_centers, rows):
                dx, dy = gt[:, 0, None] - x, gt[:, 1, None] - y
                nearest.append(largest(dx.mul_(dx).addcmul_(dy, dy).neg_(), k))
            found.append(torch.cat(nearest) + offset)
            offset += len(x)
        return torch.cat(found, dim=1).T.contiguous()  # candidates first: the order of MMDetection's sums
