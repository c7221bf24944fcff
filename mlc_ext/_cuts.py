"""What mutual labeling cuts, and where: the values of each task and the thresholds moved to the midpoint."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import MLCConfig
from .ops import segmented_otsu


def cut_values(scores: Tensor, ious: Tensor, gt: Tensor, num_gts: int, config: MLCConfig) -> tuple[Tensor, Tensor]:
    """The [N] values whose thresholds decide localization and classification; finite."""
    # NaN would be an error here; it must reach the losses, which report it
    by_score, by_iou = scores.nan_to_num(), ious.nan_to_num()
    if config.metric == "alignment":
        by_score = by_iou = by_score * by_iou**config.alignment_exponent
    if config.min_gap > 0:
        by_score, by_iou = (_flattened(values, gt, num_gts, config) for values in (by_score, by_iou))
    return by_score, by_iou


def _flattened(values: Tensor, gt: Tensor, num_gts: int, config: MLCConfig) -> Tensor:
    """``values`` with the groups whose two classes' means differ by less than ``min_gap`` made equal, so that they are
    treated as any group that cannot be split."""
    candidate, group = gt >= 0, gt.clamp(min=0)
    tau = segmented_otsu(values, gt, num_gts, bins=config.bins)
    above = candidate & (values > tau[group])
    exact, means = values.double(), []
    for chosen in (above, candidate & ~above):
        sums = exact.new_zeros(2, num_gts)
        sums[0].index_add_(0, group, torch.where(chosen, exact, 0.0))
        sums[1].index_add_(0, group, chosen.double())
        means.append(sums[0] / sums[1])
    narrow = means[0] - means[1] < config.min_gap  # NaN, of a group without two classes, is not
    return torch.where(candidate & narrow[group], tau[group], values)


class MidpointThresholds:
    """Thresholds moved up to halfway between the two classes, in the groups where both classes have members.

    values: [N]; 0, which is above no threshold, where a prior is no candidate. tau: [K] Otsu's. gt: [N] in 0..K - 1.
    """

    def __init__(self, values: Tensor, tau: Tensor, gt: Tensor) -> None:
        above = torch.where(values > tau[gt], values, float("inf"))
        smallest_above = torch.full_like(tau, float("inf")).scatter_reduce(0, gt, above, "amin")
        self.split = smallest_above.isfinite()
        self.tau = torch.where(self.split, (tau + smallest_above) / 2, tau)
        self._values, self._gt = values, gt

    def weights(self, weights: Tensor, chosen: Tensor, alpha: float) -> Tensor:
        """``weights`` [N], with Eq. 7 or 8 computed again for the ``chosen`` [N] bool of groups that were split."""
        margin = (self._values - self.tau[self._gt]).abs()
        return torch.where(chosen & self.split[self._gt], margin**alpha, weights)
