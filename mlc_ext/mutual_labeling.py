"""The method, detector-agnostic: from a baseline's assignment to the targets and losses of MLC.

A detector hands over what it knows about every prior of the batch (:class:`Assignment`, class logits, decoded boxes)
and gets back who is positive for which task and with what weight (:class:`TaskTargets`). RetinaNet, FCOS, RPN and any
other dense detector differ only in how they assign and in their own losses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ._errors import choice
from .losses import iou_rescoring_loss, normalizer, prediction_alignment_loss
from .ops import mutual_labels, paired_box_iou, segmented_otsu
from .ops.mutual_labels import IGNORED, POSITIVE

CANDIDATES = ("positives", "own_levels", "all")


@dataclass(frozen=True)
class MLCConfig:
    """Which parts of the method are on, and the settings the paper gives or leaves open.

    Raises ValueError for a setting out of its range.
    """

    ml: bool = True
    """Mutual labeling (Eq. 4-9)."""
    iur: bool = True
    """IoU rescoring (Eq. 10, 11): train the IoU layer and rank by score x IoU."""
    start_epoch: float = 12
    """Epochs of baseline training before mutual labeling is on (the paper: 12); a fraction falls inside an epoch."""
    alpha: float = 0.0
    """Exponent of the weights of originally ignored priors: FCOS- 0, RetinaNet 0.5, RPN 2."""
    gamma: float = 1.0
    """Weight of the IoU rescoring loss in Eq. 11; the paper gives none."""
    degenerate: str = "baseline"
    """What a gt whose candidates cannot be split does: "baseline" or "literal" (see mlc_ext.mutual_labels)."""
    candidates: str | None = None
    """J^k, read where a detector builds its assigner: "positives" of the baseline, "own_levels" (FCOS) or "all" (see
    the assigners). None: the detector's own, "positives" for FCOS and "all" for RetinaNet and RPN."""
    min_gap: float = 0.0
    """A group whose two classes have means that differ by less than this is not split; 0: off."""
    metric: str = "crossed"
    """What a task's labels are cut from: "crossed", the other task's value (the paper, Eq. 4-6), or "alignment",
    S * I^alignment_exponent for both tasks. The latter is this project's extension, not the paper's method; FCOS's own
    candidates then are "all" (docs/extension.md)."""
    alignment_exponent: float = 6.0
    """Exponent of I in the metric "alignment"."""
    tau: str = "lower"
    """Where a threshold lies between the two classes: "lower", the largest value of the lower one, or "midpoint" of
    that and the smallest value above. The labels are the same, the weights of Eq. 7 and 8 are not."""
    bins: int | None = None
    """None for exact Otsu thresholds, or the number of histogram bins."""
    iur_start_epoch: float | None = None
    """Epochs before the IoU layer is trained and ranks detections; None: start_epoch, 0: from the start."""
    detach_iou_target: bool = True
    """Whether the IoU target is a constant of the IoU rescoring loss."""
    alignment: float = 0.0
    """Weight of the prediction alignment loss, MSE(S, I) over baseline positives (the paper's comparison); 0: off."""

    def __post_init__(self) -> None:
        choice("MLCConfig", "degenerate", self.degenerate, ("baseline", "literal"))
        if self.candidates is not None:
            choice("MLCConfig", "candidates", self.candidates, CANDIDATES)
        choice("MLCConfig", "metric", self.metric, ("crossed", "alignment"))
        choice("MLCConfig", "tau", self.tau, ("lower", "midpoint"))
        for name in ("start_epoch", "iur_start_epoch", "alpha", "gamma", "alignment", "min_gap", "alignment_exponent"):
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise ValueError(f"MLCConfig: {name} must not be negative, got {getattr(self, name)}")
        if self.bins is not None and not 2 <= self.bins <= 65536:
            raise ValueError(f"MLCConfig: bins must be in [2, 65536] or None, got {self.bins}")
        if self.bins is not None and self.tau == "midpoint":
            raise ValueError("MLCConfig: tau='midpoint' is for exact thresholds; with bins it is the center of a bin")

    @property
    def rescoring_start(self) -> float:
        """The epoch from which the IoU layer is trained and used, with ``iur``."""
        return self.start_epoch if self.iur_start_epoch is None else self.iur_start_epoch

    def candidates_of(self, own: str) -> str:
        """The candidates to build an assigner with, where ``own`` are the detector's."""
        return own if self.candidates is None else self.candidates


@dataclass
class Assignment:
    """A baseline's assignment of the N priors of a batch, images one after another.

    ``gt`` indices run over the K boxes of the whole batch; crowd boxes are not among them.
    """

    labels: Tensor
    """[N] int8, as the baseline trains: 1 positive, 0 negative, -1 ignored."""
    candidate_gt: Tensor
    """[N] int64: the gt whose candidate a prior is (J^k), -1 for none. Baseline positives are candidates of theirs."""
    originally_ignored: Tensor
    """[N] bool: candidates that mutual labeling weighs by their margin (Eq. 7, 8)."""

    def positives_only(self) -> Assignment:
        """The baseline's positives as the only candidates: nothing that it ignored is leveraged."""
        candidate_gt = torch.where(self.labels == POSITIVE, self.candidate_gt, -1)
        return Assignment(self.labels, candidate_gt, torch.zeros_like(self.originally_ignored))


@dataclass
class TaskTargets:
    """Who trains which task, for N priors. Normalizers are counts of positives, never sums of weights."""

    cls_labels: Tensor
    """[N] int64: 0 background, 1..C the class, -1 ignored."""
    cls_weights: Tensor
    """[N] float32 weights of the classification loss; 0 where ignored."""
    loc_weights: Tensor
    """[N] float32 weights of the localization loss; 0 where not positive."""
    loc_positive: Tensor
    """[N] bool: A+loc."""
    iou_positive: Tensor
    """[N] bool: A+cls u A+loc, which the IoU layer learns from."""
    baseline_positive: Tensor
    """[N] bool: the baseline's positives."""
    matched_boxes: Tensor
    """[N, 4] the gt box of each candidate; zeros for the others."""
    ious: Tensor
    """[N] float32 I_j of each candidate's decoded box, differentiable; 0 for the others."""
    scores: Tensor
    """[N] float32 S_j of each candidate for the class of its gt, differentiable; 0 for the others."""
    thresholds: tuple[Tensor, Tensor] | None = field(default=None)
    """(tau^cls [K], tau^loc [K]) where labeling was mutual; with the metric "alignment" both are of that metric."""
    sampled_normalizer: Tensor | None = None
    """What every loss is divided by where priors were sampled (RPN); None: counts of positives."""

    @property
    def num_cls_positive(self) -> Tensor:
        return (self.cls_labels > 0).sum()

    @property
    def num_loc_positive(self) -> Tensor:
        return self.loc_positive.sum()


def task_targets(
    assignment: Assignment,
    cls_logits: Tensor,
    boxes: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    config: MLCConfig,
    *,
    mutual: bool,
) -> TaskTargets:
    """Targets of both tasks, the baseline's or the mutual ones. No host synchronization.

    Args:
        assignment: of the batch's N priors.
        cls_logits: [N, C] class logits; C = 1 for RPN's objectness.
        boxes: [N, 4] decoded predictions, xyxy pixels.
        gt_boxes: [K, 4] xyxy pixels of the whole batch, without crowd.
        gt_labels: [K] int64 in 1..C.
        config: alpha, degenerate rule, metric, min_gap, tau and bins are read.
        mutual: whether Eq. 4-8 decide, or the baseline.
    """
    candidate = assignment.candidate_gt >= 0
    if gt_boxes.shape[0] == 0:  # nothing to gather from
        gt_boxes, gt_labels = gt_boxes.new_zeros(1, 4), gt_labels.new_ones(1)
    gt = assignment.candidate_gt.clamp(min=0)
    matched_boxes = gt_boxes[gt].to(boxes.dtype) * candidate[:, None]
    matched_labels = gt_labels[gt]
    ious = paired_box_iou(boxes, matched_boxes).float() * candidate
    logits = cls_logits.gather(1, (matched_labels - 1)[:, None]).squeeze(1)
    scores = logits.float().sigmoid() * candidate

    thresholds = None
    if mutual:
        baseline = torch.where(assignment.originally_ignored, IGNORED, assignment.labels)
        by_score, by_iou = _cut_values(
            scores.detach(), ious.detach(), assignment.candidate_gt, gt_boxes.shape[0], config
        )
        result = mutual_labels(
            by_score,
            by_iou,
            assignment.candidate_gt,
            baseline,
            gt_boxes.shape[0],
            alpha=config.alpha,
            degenerate=config.degenerate,
            bins=config.bins,
        )
        labels, cls_weights = result.cls_labels, result.cls_weights
        loc_positive, loc_weights = result.loc_labels == POSITIVE, result.loc_weights
        thresholds = (result.score_thresholds, result.iou_thresholds)
        if config.tau == "midpoint":
            ignored = candidate & (baseline == IGNORED)
            moved_score = _MidpointThresholds(by_score, thresholds[0], gt)
            moved_iou = _MidpointThresholds(by_iou, thresholds[1], gt)
            loc_weights = moved_score.weights(loc_weights, ignored & loc_positive, config.alpha)
            cls_weights = moved_iou.weights(cls_weights, ignored, config.alpha)
            thresholds = (moved_score.tau, moved_iou.tau)
    else:
        labels = assignment.labels
        loc_positive = labels == POSITIVE
        cls_weights, loc_weights = (labels != IGNORED).float(), loc_positive.float()
    cls_positive = labels == POSITIVE
    return TaskTargets(
        cls_labels=torch.where(cls_positive, matched_labels, labels.long()),
        cls_weights=cls_weights,
        loc_weights=loc_weights,
        loc_positive=loc_positive,
        iou_positive=cls_positive | loc_positive,
        baseline_positive=assignment.labels == POSITIVE,
        matched_boxes=matched_boxes,
        ious=ious,
        scores=scores,
        thresholds=thresholds,
    )


def _cut_values(scores: Tensor, ious: Tensor, gt: Tensor, num_gts: int, config: MLCConfig) -> tuple[Tensor, Tensor]:
    """The [N] values whose thresholds decide localization and classification; finite."""
    # a model that has diverged is reported by its losses
    values = scores.nan_to_num(), ious.nan_to_num()
    if config.metric == "alignment":
        values = (values[0] * values[1] ** config.alignment_exponent,) * 2
    if config.min_gap > 0:
        values = tuple(_flattened(v, gt, num_gts, config) for v in values)
    return values


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


class _MidpointThresholds:
    """Thresholds moved up to halfway between the two classes, where both have members.

    values: [N], 0 where ``gt`` [N] names no group of theirs (a 0 is above no threshold). tau: [K] Otsu's.
    """

    def __init__(self, values: Tensor, tau: Tensor, gt: Tensor) -> None:
        above = torch.where(values > tau[gt], values, float("inf"))
        smallest_above = torch.full_like(tau, float("inf")).scatter_reduce(0, gt, above, "amin")
        self.split = smallest_above.isfinite()
        self.tau = torch.where(self.split, (tau + smallest_above) / 2, tau)
        self._values, self._gt = values, gt

    def weights(self, weights: Tensor, chosen: Tensor, alpha: float) -> Tensor:
        """Eq. 7 or 8 anew for the ``chosen`` [N] bool of groups that were split; the others' weights stay."""
        margin = (self._values - self.tau[self._gt]).abs()
        return torch.where(chosen & self.split[self._gt], margin**alpha, weights)


def mlc_losses(
    targets: TaskTargets, iou_logits: Tensor | None, config: MLCConfig, *, rescoring: bool = True
) -> dict[str, Tensor]:
    """What the method adds to the detector's own losses, weighted and normalized.

    Args:
        targets: of :func:`task_targets`.
        iou_logits: [N] logits of the predicted IoU, or None without an IoU layer.
        rescoring: whether the IoU layer is trained yet (``config.rescoring_start``); before, its loss is 0 and still
            connected, so that the layer has a gradient on every rank.

    Returns:
        ``iou_rescoring`` = gamma * sum (P_j - I_j)^2 / |A+cls u A+loc| (Eq. 10, 11) with ``config.iur``, divided by
        ``targets.sampled_normalizer`` instead where there is one;
        ``prediction_alignment`` with a positive ``config.alignment``.
    """
    losses = {}
    if config.iur:
        if iou_logits is None:
            raise ValueError("mlc_losses: config.iur is on but the head gave no iou_logits")
        total = iou_rescoring_loss(
            iou_logits, targets.ious, targets.iou_positive, detach_target=config.detach_iou_target
        )
        gamma = config.gamma if rescoring else 0.0
        divisor = targets.sampled_normalizer
        if divisor is None:
            divisor = normalizer(targets.iou_positive.sum())
        losses["iou_rescoring"] = gamma * total / divisor
    if config.alignment > 0:
        total = prediction_alignment_loss(targets.scores, targets.ious, targets.baseline_positive)
        losses["prediction_alignment"] = config.alignment * total / normalizer(targets.baseline_positive.sum())
    return losses
