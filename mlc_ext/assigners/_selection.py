"""Which priors an assigner selects: geometry, the largest values of a gt, one gt for each prior, crowd."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..assignment import Assignment
from ..ops.mutual_labels import IGNORED
from ._inputs import GT_CHUNK, GtBatch, on_host

# priors of a block, of which only those with the largest maxima are searched
_BLOCK = 64

# rows of logits computed at a time on a CPU, where they stay in the cache
_CACHED_ROWS = 1024

CENTER_MARGIN = 0.01
"""Pixels by which a center must lie inside a gt, as in MMDetection's ATSS and TOOD."""


def centers(priors: Tensor) -> Tensor:
    """[A, 2] x, y of points [A, 2] or of boxes [A, 4] xyxy."""
    return priors if priors.shape[-1] == 2 else (priors[..., :2] + priors[..., 2:]) / 2


def is_inside(points: Tensor, boxes: Tensor, margin: float = 0.0) -> Tensor:
    """[...] bool: the points [..., 2] lie in the boxes [..., 4], by more than ``margin`` from every side."""
    x, y = points[..., 0], points[..., 1]
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.minimum(torch.minimum(x - x1, x2 - x), torch.minimum(y - y1, y2 - y)) > margin


def largest(values: Tensor, k: int) -> Tensor:
    """[g, k] int64: where the k largest values of each row [g, A] are, in descending order.

    The k largest lie in the k blocks of largest maxima, so that only these are searched. The choice among equals
    is not specified.
    """
    num_blocks = values.shape[1] // _BLOCK
    if num_blocks <= 2 * k:
        return values.topk(k, dim=1).indices
    end = num_blocks * _BLOCK
    maxima = values[:, :end].view(len(values), num_blocks, _BLOCK).amax(2)
    blocks = maxima.topk(k, dim=1).indices.sort(dim=1).values
    lanes = torch.arange(_BLOCK, device=values.device)
    places = (blocks[..., None] * _BLOCK + lanes).flatten(1)
    rest = torch.arange(end, values.shape[1], device=values.device).expand(len(values), -1)
    places = torch.cat((places, rest), 1)
    return places.gather(1, values.gather(1, places).topk(k, dim=1).indices)


def row_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors in slices of their first dimension: of the size of a cache on a CPU, in one piece elsewhere."""
    size = _CACHED_ROWS if on_host(tensors[0]) else max(1, len(tensors[0]))
    return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)


def best_gt(prior: Tensor, gt: Tensor, value: Tensor, valid: Tensor, num_priors: int) -> tuple[Tensor, Tensor]:
    """For each prior, the gt of its largest value among the valid pairs; the first gt of equals.

    Args:
        prior, gt: [N] int64 of each pair. value: [N] floating point. valid: [N] bool.
        num_priors: P, of the batch.

    Returns:
        ([P] int64, -1 for none; [P] the value, 0 for none).
    """
    best = value.new_full((num_priors,), -torch.inf)
    best = best.scatter_reduce(0, prior, torch.where(valid, value, -torch.inf), "amax")
    none = torch.iinfo(torch.int64).max
    wins = torch.where(valid & (value == best[prior]), gt, none)
    chosen = torch.full_like(best, none, dtype=torch.int64).scatter_reduce(0, prior, wins, "amin")
    found = chosen < none
    return torch.where(found, chosen, -1), torch.where(found, best, 0)


def assemble(
    positive_gt: Tensor, candidate_gt: Tensor | None, points: Tensor, gts: GtBatch, metric: Tensor | None
) -> Assignment:
    """The assignment of B * A priors; priors in a crowd box that are no candidates are ignored.

    Args:
        positive_gt: [B * A] int64, -1 for none.
        candidate_gt: [B * A] int64 for the priors that are no positives, -1 for none; None: the positives alone.
        points: [A, 2] the priors' centers.
        metric: [B * A] or None, kept for candidates and 0 for other priors.
    """
    positive = positive_gt >= 0
    candidate_gt = positive_gt if candidate_gt is None else torch.where(positive, positive_gt, candidate_gt)
    candidate = candidate_gt >= 0
    labels = positive.to(torch.int8)
    if any(len(crowd) for crowd in gts.crowds):
        in_crowd = torch.cat([in_any(points, crowd) for crowd in gts.crowds])
        labels = torch.where(in_crowd & ~candidate, IGNORED, labels)
    if metric is not None:
        metric = torch.where(candidate, metric, 0).float()
    return Assignment(labels, candidate_gt, originally_ignored=candidate & ~positive, metric=metric)


def no_candidates(points: Tensor, gts: GtBatch) -> Assignment:
    """The assignment of a batch without gts or without priors; points [A, 2]."""
    none = torch.full((len(gts.counts) * len(points),), -1, device=points.device)
    return assemble(none, None, points, gts, torch.zeros_like(none))


def in_any(points: Tensor, boxes: Tensor) -> Tensor:
    """[P] bool."""
    found = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for start in range(0, len(boxes), GT_CHUNK):
        found |= is_inside(points[:, None], boxes[start : start + GT_CHUNK]).any(dim=1)
    return found


def selected(mask: Tensor) -> Tensor | None:
    """The indices of a mask's entries that are not 0, on a CPU.

    None elsewhere: the host would wait for their number, and a caller computes all entries with the mask.
    """
    return mask.nonzero().squeeze(-1) if on_host(mask) else None
