"""Assignment: which prior trains which object, as the baseline detector assigns it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._errors import check_range, choice
from .ops.mutual_labels import IGNORED, NEGATIVE, POSITIVE

CANDIDATES = ("positives", "own_levels", "all")
"""The choices of J^k, the candidates of mutual labeling; see the assigners."""

# What an index below the first gt means: (of gt 0, lowest allowed, ignored). Every other one is a negative.
_CONVENTIONS = {"torchvision": (0, -2, -2), "mmdetection": (1, -1, -1)}


@dataclass
class Assignment:
    """A baseline's assignment of the N priors of a batch, the images one after another.

    ``gt`` indices run over the K boxes of the whole batch; crowd boxes are not among them.
    """

    labels: Tensor
    """[N] int8, the baseline's label: 1 positive, 0 negative, -1 ignored."""
    candidate_gt: Tensor
    """[N] int64: the gt of which a prior is a candidate (J^k), -1 for none. Every positive is a candidate."""
    originally_ignored: Tensor
    """[N] bool: the candidates that the baseline does not train. Mutual labeling weights them by their margin (Eq. 7,
    8)."""
    metric: Tensor | None = None
    """[N] float32, or None: how well a candidate fits its gt by the assigner's own measure, 0 for other priors; each
    assigner documents which. It serves soft targets of classification."""

    def positives_only(self) -> Assignment:
        """The assignment with the baseline's positives as the only candidates, none of them originally ignored."""
        candidate_gt = torch.where(self.labels == POSITIVE, self.candidate_gt, -1)
        metric = None if self.metric is None else torch.where(candidate_gt >= 0, self.metric, 0)
        return Assignment(self.labels, candidate_gt, torch.zeros_like(self.originally_ignored), metric)

    @classmethod
    def from_matched(
        cls,
        matched: Sequence[Tensor],
        *,
        num_gts: Sequence[int],
        convention: str,
        candidates: Sequence[Tensor] | None = None,
    ) -> Assignment:
        """The assignment that another library's matcher made.

        Both libraries drop the gt of the priors that they ignore. Without ``candidates`` these stay ignored, and the
        positives are the only candidates of mutual labeling.

        Args:
            matched: one [A] integer tensor per image, of indices into the image's own gts.

                - ``"torchvision"``: the output of its Matcher (``matched_idxs``): gt k is k, -1
                  (BELOW_LOW_THRESHOLD) is a negative, -2 (BETWEEN_THRESHOLDS) is ignored.
                - ``"mmdetection"``: ``AssignResult.gt_inds``: gt k is k + 1, 0 is a negative, -1 is ignored.
            num_gts: the number of gts of each image. Exclude crowd boxes before matching.
            convention: ``"torchvision"`` or ``"mmdetection"``.
            candidates: one [A] integer tensor per image: the gt (k, from 0, in both conventions) of the prior's largest
                IoU, -1 for none; ``match_quality_matrix.max(dim=0).indices`` in torchvision. It is read where the
                prior is ignored: such a prior becomes a candidate and originally ignored.

        Returns:
            The assignment of all priors on the device of ``matched``; gt indices run over the whole batch.

        Raises:
            TypeError: an entry is not an integer tensor. ValueError: lengths or shapes disagree, unknown convention,
            or (CPU only; on CUDA no synchronization is spent on it) an index is out of range.
        """
        op = "Assignment.from_matched"
        choice(op, "convention", convention, tuple(_CONVENTIONS))
        first, lowest, ignored_index = _CONVENTIONS[convention]
        if len(matched) == 0 or len(num_gts) != len(matched):
            raise ValueError(f"{op}: matched and num_gts need one entry per image: {len(matched)} and {len(num_gts)}")
        if candidates is not None and len(candidates) != len(matched):
            raise ValueError(f"{op}: candidates need one entry per image: {len(candidates)} for {len(matched)}")
        labels, candidate_gt, offset = [], [], 0
        for i, (index, count) in enumerate(zip(matched, num_gts, strict=True)):
            _check_indices(op, f"matched[{i}]", index, lowest, first + count - 1, count)
            ignored, positive = index == ignored_index, index >= first
            gt = torch.where(positive, index - first, -1)
            if candidates is not None:
                _check_indices(op, f"candidates[{i}]", candidates[i], -1, count - 1, count)
                if candidates[i].shape != index.shape:
                    shapes = f"{list(index.shape)} and {list(candidates[i].shape)}"
                    raise ValueError(f"{op}: matched[{i}] and candidates[{i}] must have one shape, got {shapes}")
                gt = torch.where(ignored, candidates[i], gt)
            labels.append(torch.where(ignored, IGNORED, torch.where(positive, POSITIVE, NEGATIVE)))
            candidate_gt.append(torch.where(gt >= 0, gt + offset, -1))
            offset += count
        all_labels, all_gts = torch.cat(labels).to(torch.int8), torch.cat(candidate_gt).long()
        return cls(all_labels, all_gts, originally_ignored=(all_labels == IGNORED) & (all_gts >= 0))


def _check_indices(op: str, name: str, index: Tensor, low: int, high: int, num_gts: int) -> None:
    if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
        found = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"{op}: {name} must be an int64 or int32 tensor, got {found}")
    if index.dim() != 1:
        raise ValueError(f"{op}: {name} must have shape [A], got {list(index.shape)}")
    if index.device.type == "cpu":
        check_range(op, name, index, low, high, f" for {num_gts} gts")
