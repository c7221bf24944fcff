"""match_boxes: max-IoU assignment of priors to gts, for a batch. The rule and its contract: csrc/match_boxes.h."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._errors import call, check_tensors, choice
from ._register import fake_of, without_gradient

_FORCED = (None, "forcing", "own_best")  # indices: enum Forced of csrc/match_boxes.h


class MatchedBoxes(NamedTuple):
    """The result of :func:`match_boxes` for A priors in each of B images."""

    labels: Tensor
    """[B, A] int8: 1 positive, 0 negative, -1 ignored."""
    candidate_gt: Tensor
    """[B, A] int64: the gt, an index of ``gt_boxes``, of which the prior is a candidate; -1 for none."""
    ious: Tensor
    """[B, A]: the prior's largest IoU with a gt of its image."""


def match_boxes(
    priors: Tensor,
    gt_boxes: Tensor,
    gt_offsets: Tensor,
    *,
    high: float,
    low: float,
    forced: str | None = "forcing",
    min_forced_iou: float = 0.0,
    crowd: Tensor | None = None,
    crowd_iof: float = 0.5,
) -> MatchedBoxes:
    """Assigns every prior of every image as Faster R-CNN and RetinaNet do. The A x K matrix of IoUs is never stored.

    A prior is positive if its largest IoU is at least ``high``, or if no prior has a larger IoU with some gt
    (``forced``). Otherwise it is negative if its largest IoU is below ``low``, else ignored. ``candidate_gt`` has
    the gts of the ignored priors too: they are candidates of mutual labeling.

    Args:
        priors: [A, 4] floating point xyxy, the same in every image.
        gt_boxes: [K, 4] xyxy of the same dtype, the images' one after another.
        gt_offsets: [B + 1] int64 on the same device: image b has gts gt_offsets[b] to gt_offsets[b + 1].
        high, low: IoU thresholds; RetinaNet 0.5 and 0.4, RPN 0.7 and 0.3.
        forced: the gt of a prior that no other prior surpasses in IoU with some gt:

            - ``"forcing"``: that gt; the last one if there are several. MMDetection's rule.
            - ``"own_best"``: the gt with which the prior itself has its largest IoU, the first of equals. The rule of
              torchvision and Detectron2 (``allow_low_quality_matches``). These also make every prior positive where a
              gt has IoU 0 with all of them; here such a gt forces nothing.
            - None: no prior is forced.
        min_forced_iou: a gt whose largest IoU with a prior is 0 or below this value forces none. RetinaNet 0, RPN 0.3.
        crowd: [K] bool or None. Crowd gts match nothing; a negative is ignored if at least ``crowd_iof`` of its area
            lies in one of them.
        crowd_iof: in (0, 1].

    Returns:
        :class:`MatchedBoxes` (labels, candidate_gt, ious).

    Raises:
        TypeError: a dtype is wrong. ValueError: shapes or devices disagree, a threshold is outside [0, 1], low > high,
        unknown ``forced``, or (CPU only) gt_offsets do not rise from 0 to K.

    Source: Ren et al. 2015 (RPN), Lin et al. 2017 (RetinaNet), as in MMDetection's MaxIoUAssigner; a gt of IoU 0 with
    every prior matches nothing.
    """
    check_tensors("match_boxes", priors=priors, gt_boxes=gt_boxes, gt_offsets=gt_offsets)
    return MatchedBoxes(
        *call(
            torch.ops.mlc_ext.match_boxes,
            priors.detach(),
            gt_boxes.detach(),
            gt_offsets,
            crowd,
            high,
            low,
            _FORCED.index(choice("match_boxes", "forced", forced, _FORCED)),
            min_forced_iou,
            crowd_iof,
        )
    )


@fake_of("match_boxes")
def _(priors: Tensor, gt_boxes: Tensor, gt_offsets: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    shape = (gt_offsets.shape[0] - 1, priors.shape[0])
    return (
        priors.new_empty(shape, dtype=torch.int8),
        priors.new_empty(shape, dtype=torch.int64),
        priors.new_empty(shape),
    )


without_gradient("match_boxes", instead_of_vmap="it takes a batch of images; gt_offsets separates their gts")
