"""mutual_labels: Eq. 4-8 for all priors. The rule and its contract: csrc/mutual_labels.h."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._errors import call, check_tensors, choice
from ._register import fake_of, without_gradient

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


class MutualLabels(NamedTuple):
    """The result of :func:`mutual_labels` for N priors and K gts."""

    cls_labels: Tensor
    """[N] int8: 1 positive, 0 negative, -1 ignored for classification (A+cls, A-cls and A-)."""
    loc_labels: Tensor
    """[N] int8: 1 positive for localization (A+loc), else 0."""
    cls_weights: Tensor
    """[N] W^cls of Eq. 7; 0 where ignored."""
    loc_weights: Tensor
    """[N] W^loc of Eq. 8; 0 where not positive."""
    score_thresholds: Tensor
    """[K] tau^cls = Otsu(S^k), which decides localization."""
    iou_thresholds: Tensor
    """[K] tau^loc = Otsu(I^k), which decides classification."""


def mutual_labels(
    scores: Tensor,
    ious: Tensor,
    candidate_gt: Tensor,
    baseline_labels: Tensor,
    num_gts: int,
    *,
    alpha: float,
    degenerate: str = "baseline",
    bins: int | None = None,
) -> MutualLabels:
    """Labels and weights of both tasks, by mutual labeling.

    A candidate whose IoU is above the threshold of its gt is a positive of classification; one whose score is above it
    is a positive of localization.

    Args:
        scores: [N] S_j, the sigmoid score of prior j for the class of its gt. All inputs are constants.
        ious: [N] I_j, the IoU of j's decoded box with its gt; dtype of scores.
        candidate_gt: [N] int64, the gt (of the whole batch) of which the prior is a candidate, -1 for none.
        baseline_labels: [N] int8 (or any integer type), the baseline's assignment: 1 positive, 0 negative, -1 ignored.
        num_gts: K, the number of gts of the batch.
        alpha: exponent of the weights of originally ignored priors. The paper: FCOS- 0, RetinaNet 0.5, RPN 2.
        degenerate: the rule of a task for a gt whose values are all equal and cannot be split: "baseline" keeps the
            baseline's assignment of its candidates, "literal" follows Eq. 4-6 (no positive).
        bins: as in :func:`segmented_otsu`.

    Returns:
        :class:`MutualLabels`. Priors that are candidates of no gt keep the baseline's classification label.

    Raises:
        TypeError: a dtype is wrong. ValueError: shapes disagree, an option is unknown, or (CPU only) an index
        is out of range, a value is not finite, or a baseline positive is a candidate of no gt.

    Source: paper Eq. 4-8.
    """
    check_tensors("mutual_labels", scores=scores, ious=ious, candidate_gt=candidate_gt, baseline_labels=baseline_labels)
    choice("mutual_labels", "degenerate", degenerate, ("baseline", "literal"))
    if baseline_labels.is_floating_point() or baseline_labels.is_complex():
        raise TypeError(f"mutual_labels: baseline_labels must be an integer tensor, got {baseline_labels.dtype}")
    if baseline_labels.dtype != torch.int8:  # saturated, not wrapped: 257 must not pass for 1
        baseline_labels = baseline_labels.long().clamp(-128, 127).to(torch.int8)
    return MutualLabels(
        *call(
            torch.ops.mlc_ext.mutual_labels,
            scores.detach(),
            ious.detach(),
            candidate_gt,
            baseline_labels,
            num_gts,
            alpha,
            degenerate == "literal",
            bins,
        )
    )


@fake_of("mutual_labels")
def _(scores: Tensor, ious: Tensor, gt: Tensor, baseline: Tensor, num_gts: int, *options: Any) -> tuple[Tensor, ...]:
    def labels() -> Tensor:
        return scores.new_empty(scores.shape, dtype=torch.int8)

    def weights() -> Tensor:
        return scores.new_empty(scores.shape)

    def thresholds() -> Tensor:
        return scores.new_empty((num_gts,))

    return labels(), labels(), weights(), weights(), thresholds(), thresholds()


without_gradient("mutual_labels", instead_of_vmap="give the samples gt indices of their own and call it once")
