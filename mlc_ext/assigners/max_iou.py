"""MaxIoUAssigner: the assignment of RetinaNet and RPN, by IoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from .._errors import choice
from .._transfer import offsets_of, to_device
from ..assignment import Assignment
from ..ops import match_boxes
from ..ops.mutual_labels import IGNORED
from ._inputs import Predictions


@dataclass(frozen=True)
class MaxIoUAssigner:
    """RetinaNet's and RPN's rule: an anchor belongs to the gt of its largest IoU; every gt forces its best anchors.

    Candidates of mutual labeling ("all") are the anchors whose largest IoU is at least ``low`` and above 0, and the
    forced ones. Originally ignored are the candidates that are not forced and whose largest IoU is below ``high``.

    Args:
        high, low, forced, min_forced_iou, crowd_iof: as in :func:`mlc_ext.match_boxes`. RetinaNet: the defaults; RPN:
            high 0.7, low 0.3, min_forced_iou 0.3.
        candidates: "all" as above, or "positives": the baseline's alone, so that nothing is originally ignored.

    Raises:
        ValueError: ``candidates`` is neither.

    Source: Lin et al. 2017 (RetinaNet), Ren et al. 2015 (RPN), in the form of MMDetection's MaxIoUAssigner.
    """

    high: float = 0.5
    low: float = 0.4
    min_forced_iou: float = 0.0
    crowd_iof: float = 0.5
    forced: str | None = "forcing"
    candidates: str = "all"

    def __post_init__(self) -> None:
        choice("MaxIoUAssigner", "candidates", self.candidates, ("positives", "all"))

    def __call__(
        self,
        priors: Tensor | Sequence[Tensor],
        targets: Sequence[Mapping[str, Tensor]],
        predictions: Predictions | None = None,
    ) -> Assignment:
        """As :class:`Assigner`, for anchors of each level, or of all in one tensor: the levels are not distinguished.

        Errors as :func:`mlc_ext.match_boxes`.
        """
        anchors = priors if isinstance(priors, Tensor) else torch.cat(list(priors))
        pairs = [(target["boxes"], target.get("crowd", target["boxes"][:0])) for target in targets]
        sizes = [len(boxes) + len(crowd) for boxes, crowd in pairs]
        is_crowd = [flag for boxes, crowd in pairs for flag in [False] * len(boxes) + [True] * len(crowd)]
        device = anchors.device
        matched = match_boxes(
            anchors,
            torch.cat([part for pair in pairs for part in pair]).to(anchors.dtype),
            offsets_of(sizes, device),
            high=self.high,
            low=self.low,
            forced=self.forced,
            min_forced_iou=self.min_forced_iou,
            crowd=to_device(is_crowd, torch.bool, device) if any(is_crowd) else None,
            crowd_iof=self.crowd_iof,
        )
        labels, gt = matched.labels.flatten(), matched.candidate_gt
        if any(is_crowd):  # the operator counts crowd boxes, an Assignment does not
            crowds_before = [0, *accumulate(len(crowd) for _, crowd in pairs)][:-1]
            gt = torch.where(gt >= 0, gt - to_device(crowds_before, torch.int64, device)[:, None], gt)
        gt = gt.flatten()
        found = Assignment(labels, gt, originally_ignored=(labels == IGNORED) & (gt >= 0))
        return found if self.candidates == "all" else found.positives_only()
