"""Pairs of points and gts, with sums and extremes for each gt."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._inputs import on_host
from ._selection import is_inside


class Pairs(NamedTuple):
    """Pairs of points and gts: on a CPU those where the point lies in the gt; elsewhere all [G, A] of them with a
    mask, since the host does not know how many lie inside."""

    point: Tensor
    gt: Tensor
    inside: Tensor
    num_gts: int

    def sum_per_gt(self, values: Tensor) -> Tensor:
        """[G]"""
        if on_host(values):
            return values.new_zeros(self.num_gts).index_add(0, self.gt, values)
        return values.view(self.num_gts, -1).sum(1)

    def extremes_per_gt(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest value inside the gt of each pair."""
        none = values.new_full((self.num_gts,), torch.inf)
        low = none.scatter_reduce(0, self.gt, torch.where(self.inside, values, torch.inf), "amin")
        high = (-none).scatter_reduce(0, self.gt, torch.where(self.inside, values, -torch.inf), "amax")
        return low[self.gt], high[self.gt]


def pairs_inside(points: Tensor, gt_boxes: Tensor) -> Pairs:
    inside = is_inside(points, gt_boxes[:, None])  # [G, A]
    num_gts, num_priors = inside.shape
    if on_host(points):
        gt, point = inside.nonzero().unbind(1)
        return Pairs(point, gt, torch.ones_like(gt, dtype=torch.bool), num_gts)
    gt, point = (torch.arange(n, device=points.device) for n in (num_gts, num_priors))
    return Pairs(
        point.expand(num_gts, -1).flatten(), gt[:, None].expand(-1, num_priors).flatten(), inside.flatten(), num_gts
    )
