"""The divergence metric: how well the score by which a detector ranks its boxes agrees with their IoU.

It is Spearman's rank correlation of both over the predictions before NMS (the paper's Tables 1 and 2, section 4.2). The
paper does not define the protocol; :class:`Divergence` reports two.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ._prediction_inputs import read_gts, read_predictions
from .ops import box_iou, segmented_spearman

__all__ = ["Divergence", "segmented_spearman", "spearman"]

# Entries of the largest IoU matrix held at a time: 64 MiB of float32.
_MATRIX_ENTRIES = 2**24


def spearman(x: ArrayLike | Tensor, y: ArrayLike | Tensor) -> float:
    """Spearman's rank correlation of two [N] samples: :func:`segmented_spearman` of a single group."""
    x, y = (v if isinstance(v, Tensor) else torch.from_numpy(np.array(v, dtype=np.float64)) for v in (x, y))
    rho, _ = segmented_spearman(x, y, torch.zeros(len(x), dtype=torch.int64, device=x.device), 1)
    return rho.item()


def _order(values: Tensor, segments: Tensor, *, descending: bool = False) -> Tensor:
    """[N] indices that sort by (segment, value, index)."""
    order = values.argsort(descending=descending, stable=True)
    return order[segments[order].argsort(stable=True)]


class Divergence:
    """Rank correlation of score and IoU over a data set, in two protocols.

    A prediction before NMS is a box with a score for each class. For every class c it is matched to the gt of class c
    with which its box has the largest IoU, the first of equals. A prediction whose IoU with all of them is 0 is not
    matched. Crowd boxes are ignored.

    - per gt: rho of each gt's ``top_k`` matched predictions of highest score (of equal scores those of lower index),
      without any threshold; then the mean over gts. A gt whose rho is undefined (fewer than 2 matches, or all scores or
      all IoUs equal) is skipped and counted.
    - pooled: one rho over all matched pairs (prediction, class) of the data set with score > ``score_threshold`` and
      IoU >= ``iou_threshold``.

    Example (distributed: every rank updates with its own images)::

        divergence = Divergence()
        for predictions, targets in images:
            divergence.update(predictions, targets)
        states = [None] * world_size
        torch.distributed.all_gather_object(states, divergence.state_dict())
        total = Divergence()
        for state in states:
            total.merge(Divergence.from_state_dict(state))
        total.compute()

    Args:
        top_k: predictions per gt in the first protocol, >= 2.
        score_threshold: of the second protocol, exclusive; it applies to ``raw_scores`` if they are given.
        iou_threshold: of the second protocol, inclusive.
        first_label: the label of score column 0, as in :func:`mlc_ext.task_targets`. Labels 1..C with C columns: 1.
            MMDetection (0..C - 1), and torchvision (1..90 with 91 columns): 0.

    Raises:
        ValueError: top_k is below 2.

    Source: paper section 4.2.
    """

    def __init__(
        self, *, top_k: int = 50, score_threshold: float = 0.05, iou_threshold: float = 0.5, first_label: int = 1
    ) -> None:
        if top_k < 2:
            raise ValueError(f"Divergence: top_k must be at least 2, got {top_k}")
        self.top_k = top_k
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.first_label = first_label
        self.reset()

    def reset(self) -> None:
        """Removes all images."""
        self._rhos: list[Tensor] = []  # [K_i] float64 of an image's gts, NaN for skipped
        self._scores: list[Tensor] = []  # [M_i] float64, pooled pairs
        self._ious: list[Tensor] = []
        self._gts: list[Tensor] = []  # [M_i] int64, each pooled pair's gt, an index into the image's rhos

    @torch.no_grad()
    def update(self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Adds one image.

        Args:
            predictions: before NMS. ``boxes`` [P, 4] xyxy; ``scores`` [P, C], by which the detector ranks: the class
                score, times the predicted IoU or centerness if it has them; optional ``raw_scores`` [P, C], the class
                scores to which the detector applies its threshold, if these are others. Or sparse: ``labels`` [P]
                int64, and ``scores`` and ``raw_scores`` [P] for that label alone. Use it where a detector gives a box
                one class: zeros for the other classes would count as predictions.
            targets: ``boxes`` [K, 4] in the coordinates of the predictions; ``labels`` [K] int64 in
                first_label .. first_label + C - 1, any value for sparse predictions; optional ``iscrowd`` [K]. On any
                device.

        Raises:
            TypeError: labels are not int64. ValueError: shapes disagree, a label is out of range, or a prediction is
            NaN or infinite.
        """
        boxes, scores, raw_scores, labels = read_predictions("Divergence", predictions)
        allowed = None if labels is not None else range(self.first_label, self.first_label + scores.shape[1])
        gt_boxes, gt_labels = read_gts("Divergence", targets, boxes, allowed)
        if gt_labels.numel() == 0:
            return
        pairs = []
        for label in sorted(set(gt_labels.tolist())):
            if labels is None:
                column = label - self.first_label
                of_class = boxes, scores[:, column], raw_scores[:, column]
            else:
                rows = labels == label
                of_class = boxes[rows], scores[rows], raw_scores[rows]
            pairs.append(self._pairs_of_class(*of_class, gt_boxes, torch.nonzero(gt_labels == label).flatten()))
        gts, pair_scores, ious, pooled = (torch.cat(column) for column in zip(*pairs, strict=True))
        order = _order(pair_scores, gts, descending=True)
        count = torch.bincount(gts, minlength=gt_labels.numel())
        place = torch.arange(order.numel(), device=order.device) - (count.cumsum(0) - count)[gts[order]]
        top = order[place < self.top_k]
        rho, _ = segmented_spearman(pair_scores[top], ious[top], gts[top], gt_labels.numel())
        self._rhos.append(rho.cpu())
        self._scores.append(pair_scores[pooled].double().cpu())
        self._ious.append(ious[pooled].double().cpu())
        self._gts.append(gts[pooled].cpu())

    def _pairs_of_class(
        self, boxes: Tensor, scores: Tensor, raw_scores: Tensor, gt_boxes: Tensor, of_class: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predictions of one class, [P] each, and the indices of its gts -> of the matched ones (gt index, score, IoU,
        whether it is pooled), [M] each."""
        ious, gts = _best_gt(boxes, gt_boxes[of_class])
        matched = torch.nonzero(ious > 0).flatten()
        ious, gts = ious[matched], of_class[gts[matched]]
        pooled = (raw_scores[matched] > self.score_threshold) & (ious >= self.iou_threshold)
        return gts, scores[matched], ious, pooled

    def compute(self) -> dict[str, float | int]:
        """Both protocols over all images so far.

        Returns:
            ``per_gt``: mean rho over gts, NaN if there are none; ``per_gt_count``: the number of gts in that mean;
            ``per_gt_skipped``: the number of gts whose rho is undefined; ``pooled``: rho of the pooled pairs, NaN if it
            is undefined; ``pooled_count``: their number.
        """
        state = self.state_dict()
        rhos = state["rhos"]
        defined = rhos[~rhos.isnan()]
        return {
            "per_gt": defined.mean().item(),
            "per_gt_count": defined.numel(),
            "per_gt_skipped": rhos.numel() - defined.numel(),
            "pooled": spearman(state["scores"], state["ious"]),
            "pooled_count": state["scores"].numel(),
        }

    def merge(self, other: Divergence) -> Divergence:
        """Adds the images of another accumulator, which does not change.

        Returns:
            self.

        Raises:
            ValueError: the settings differ.
        """
        if self._settings() != other._settings():
            raise ValueError(f"Divergence.merge: settings differ: {self._settings()} and {other._settings()}")
        for name in ("_rhos", "_scores", "_ious", "_gts"):
            setattr(self, name, [*getattr(self, name), *getattr(other, name)])  # other may be self
        return self

    def state_dict(self) -> dict[str, Any]:
        """The settings and the collected values as CPU tensors, for :meth:`from_state_dict`.

        ``rhos`` [K] float64 of all gts that are not crowd, in the order in which they were added, NaN where undefined;
        ``scores`` and ``ious`` [M] float64 of the pooled pairs, and ``gts`` [M] int64, the pair's gt among the K.
        """
        empty = torch.zeros(0, dtype=torch.float64)
        before = accumulate((len(rhos) for rhos in self._rhos), initial=0)
        gts = [own + offset for own, offset in zip(self._gts, before, strict=False)]
        return {
            "settings": self._settings(),
            "rhos": torch.cat([empty, *self._rhos]),
            "scores": torch.cat([empty, *self._scores]),
            "ious": torch.cat([empty, *self._ious]),
            "gts": torch.cat([empty.long(), *gts]),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Divergence:
        """The accumulator of a :meth:`state_dict`."""
        divergence = cls(**state["settings"])
        for name in ("rhos", "scores", "ious", "gts"):
            setattr(divergence, f"_{name}", [state[name].clone()])
        return divergence

    def _settings(self) -> dict[str, float | int]:
        return {name: getattr(self, name) for name in ("top_k", "score_threshold", "iou_threshold", "first_label")}


def _best_gt(boxes: Tensor, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes [P, 4] and [K, 4] -> (largest IoU [P], the first gt that has it [P]), in slices of the matrix."""
    rows = max(1, _MATRIX_ENTRIES // len(gt_boxes))
    best = [box_iou(part, gt_boxes).max(1) for part in torch.split(boxes, rows)]
    return torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])
