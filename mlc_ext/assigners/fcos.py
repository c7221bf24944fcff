"""FCOSAssigner: the assignment of FCOS, by location and size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .._errors import choice
from ..assignment import CANDIDATES, Assignment
from ..ops.mutual_labels import IGNORED
from ._inputs import GT_CHUNK, Predictions, check_levels, of_levels
from ._selection import centers, in_any, is_inside

INFINITY = 1e8
"""The upper end of the last level's range, as in MMDetection."""


class FCOSAssigner:
    """FCOS (Tian et al., 2019): a point is positive for the smallest gt that contains it and fits its level.

    A point in a crowd box that lies in no other box is ignored.

    Candidates of mutual labeling are the positives, each of its gt, and by ``candidates`` further points, each of the
    smallest gt that may have it; those are originally ignored.

    Args:
        strides: pixels per cell of each level.
        regress_ranges: (low, high) of each level, in pixels: a point fits if max(l, t, r, b), the largest distance to
            a side of the gt, is in it, ends included. None: FCOS's own, (-1, 64), (64, 128) ... for strides 8..128.
        center_sampling_radius: None, or the radius, in strides, of the square around a gt's center in which its
            positives must lie (1.5 in FCOS's later versions). It does not limit the further candidates.
        v1: compute areas as MMDetection 1.1 does, (width + 1) * (height + 1), to find the smallest gt.
        candidates: "positives" alone; "own_levels", also every point in a gt on the levels where that gt has a
            positive; or "all", also every point in a gt on every level.

    Raises:
        ValueError: as many ``regress_ranges`` as ``strides`` are needed; ``candidates`` is unknown.
    """

    def __init__(
        self,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        regress_ranges: Sequence[tuple[float, float]] | None = None,
        center_sampling_radius: float | None = None,
        *,
        v1: bool = False,
        candidates: str = "positives",
    ) -> None:
        self.candidates = choice("FCOSAssigner", "candidates", candidates, CANDIDATES)
        self.strides = tuple(strides)
        if regress_ranges is None:
            regress_ranges = default_regress_ranges(self.strides)
        if len(regress_ranges) != len(self.strides):
            raise ValueError(f"FCOSAssigner: {len(regress_ranges)} regress_ranges for {len(self.strides)} strides")
        self.regress_ranges = tuple((float(low), float(high)) for low, high in regress_ranges)
        self.center_sampling_radius = center_sampling_radius
        self.extent = 1.0 if v1 else 0.0  # what is added to x2 - x1 to give a width

    def __call__(
        self,
        points: Sequence[Tensor],
        targets: Sequence[Mapping[str, Tensor]],
        predictions: Predictions | None = None,
    ) -> Assignment:
        """As :class:`Assigner`, for points."""
        check_levels("FCOSAssigner", points)
        all_points = torch.cat(list(points))
        facts = [*zip(*self.regress_ranges, strict=True), self.strides, range(len(self.strides))]
        level = torch.stack([of_levels("FCOSAssigner", points, values) for values in facts], dim=1)
        parts, offset = [], 0
        for target in targets:
            boxes = target["boxes"]
            parts.append(self._assign_image(all_points, level, boxes, target.get("crowd", boxes[:0]), offset))
            offset += boxes.shape[0]
        labels, candidate_gt, ignored = (torch.cat(column) for column in zip(*parts, strict=True))
        return Assignment(labels=labels, candidate_gt=candidate_gt, originally_ignored=ignored)

    def _assign_image(
        self, points: Tensor, level: Tensor, gt_boxes: Tensor, crowd: Tensor, offset: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-> labels [P] int8, candidate_gt [P] int64, originally_ignored [P] bool."""
        positive_gt, inside_gt = self._smallest(points, level, gt_boxes)
        positive = positive_gt >= 0
        candidate_gt = positive_gt
        if self.candidates == "all":
            candidate_gt = torch.where(positive, positive_gt, inside_gt)
        elif self.candidates == "own_levels" and gt_boxes.shape[0] > 0:
            own = self._levels_with_positives(positive_gt, level, gt_boxes.shape[0])
            candidate_gt = torch.where(positive, positive_gt, self._smallest(points, level, gt_boxes, own)[1])
        labels = positive.to(torch.int8)
        if crowd.shape[0] > 0:
            on_crowd = in_any(points, crowd) & (inside_gt < 0)
            labels = torch.where(on_crowd, IGNORED, labels)
        candidate_gt = torch.where(candidate_gt >= 0, candidate_gt + offset, candidate_gt)
        return labels, candidate_gt, (candidate_gt >= 0) & ~positive

    def _smallest(
        self, points: Tensor, level: Tensor, gt_boxes: Tensor, levels_of: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """[P] int64 each, -1 for none: the smallest gt that a point is positive for, and the smallest that contains it,
        of those with ``levels_of`` [G, L] bool on the point's level where that is given."""

        def rules(start: int, boxes: Tensor) -> tuple[Tensor, Tensor]:
            inside, fits = self._inside_and_fits(points, level, boxes)
            if levels_of is not None:
                inside = inside & levels_of[start : start + GT_CHUNK].T[level[:, 3].long()]
            return fits, inside

        positive_gt, inside_gt = _smallest_gts(points, gt_boxes, rules, 2, self.extent)
        return positive_gt, inside_gt

    def _levels_with_positives(self, positive_gt: Tensor, level: Tensor, num_gts: int) -> Tensor:
        """[G, L] bool."""
        levels = len(self.strides)
        cell = torch.where(positive_gt >= 0, positive_gt * levels + level[:, 3].long(), num_gts * levels)
        found = torch.zeros(num_gts * levels + 1, dtype=torch.bool, device=cell.device).index_fill_(0, cell, True)
        return found[:-1].view(num_gts, levels)

    def _inside_and_fits(self, points: Tensor, level: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """[P, G] bool: the point lies in the gt (strictly); it also satisfies the level's range and the center rule."""
        p = points[:, None]
        ltrb = torch.cat((p - boxes[:, :2], boxes[:, 2:] - p), dim=-1)
        inside = ltrb.amin(-1) > 0
        longest = ltrb.amax(-1)
        fits = inside & (longest >= level[:, :1]) & (longest <= level[:, 1:2])
        if self.center_sampling_radius is not None:
            center = centers(boxes)
            reach = (level[:, 2:3] * self.center_sampling_radius)[:, None]
            low = torch.maximum(center - reach, boxes[:, :2])
            high = torch.minimum(center + reach, boxes[:, 2:])
            fits &= torch.minimum(p - low, high - p).amin(-1) > 0
        return inside, fits


def default_regress_ranges(strides: Sequence[int]) -> list[tuple[float, float]]:
    """(-1, 8 s_0), (8 s_0, 8 s_1), ..., (8 s_{n-2}, 1e8): FCOS's own for strides 8..128."""
    edges = [-1.0, *(8.0 * s for s in strides[:-1]), INFINITY]
    return list(zip(edges[:-1], edges[1:], strict=True))


def smallest_containing(points: Tensor, gt_boxes: Tensor) -> Tensor:
    """[P] int64: the smallest gt of [G, 4] that contains each point [P, 2], strictly; -1 for none."""
    return _smallest_gts(points, gt_boxes, lambda _, boxes: (is_inside(points[:, None], boxes),), 1)[0]


def _smallest_gts(
    points: Tensor,
    gt_boxes: Tensor,
    rules: Callable[[int, Tensor], Sequence[Tensor]],
    num_rules: int,
    extent: float = 0,
) -> Tensor:
    """[R, P] int64: the gt of smallest area that each of R rules allows a point, of equals the first; -1 for none.

    Args:
        rules: called with the number of a chunk's first gt and its boxes [g, 4] -> R masks [P, g].
        extent: added to a box's width and height for its area.
    """
    # running minima of the area over chunks of gts
    best_area = points.new_full((num_rules, len(points)), float("inf"))
    best_gt = points.new_full((num_rules, len(points)), -1, dtype=torch.int64)
    for start in range(0, gt_boxes.shape[0], GT_CHUNK):
        boxes = gt_boxes[start : start + GT_CHUNK]
        area = (boxes[:, 2:] - boxes[:, :2] + extent).prod(1)
        for rule, allowed in enumerate(rules(start, boxes)):
            smallest, gt = torch.where(allowed, area, float("inf")).min(dim=1)
            better = smallest < best_area[rule]
            best_area[rule] = torch.where(better, smallest, best_area[rule])
            best_gt[rule] = torch.where(better, gt + start, best_gt[rule])
    return best_gt
