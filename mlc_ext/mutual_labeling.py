"""The method, detector-agnostic: from a baseline's assignment to the targets and losses of MLC.

A detector hands over what it knows about every prior of the batch (:class:`Assignment`, class logits, decoded boxes)
and gets back who is positive for which task and with what weight (:class:`TaskTargets`). RetinaNet, FCOS, RPN and any
other dense detector differ only in how they assign and in their own losses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .losses import iou_rescoring_loss, normaliser, prediction_alignment_loss
from .ops import mutual_labels, paired_box_iou
from .ops.mutual_labels import IGNORED, POSITIVE


@dataclass(frozen=True)
class MLCConfig:
    """Which parts of the method are on, and the settings the paper gives or leaves open (METHOD: README, "The method").

    Raises ValueError for a setting out of its range.
    """

    ml: bool = True
    """Mutual labelling (Eq. 4-9)."""
    iur: bool = True
    """IoU rescoring (Eq. 10, 11): train the IoU layer and rank by score x IoU."""
    start_epoch: float = 12
    """Epochs of baseline training before mutual labelling is on (the paper: 12); a fraction falls inside an epoch."""
    alpha: float = 0.0
    """Exponent of the weights of originally ignored priors: FCOS- 0, RetinaNet 0.5, RPN 2."""
    gamma: float = 1.0
    """Weight of the IoU rescoring loss in Eq. 11; the paper gives none."""
    degenerate: str = "baseline"
    """What a gt whose candidates cannot be split does: "baseline" or "literal" (see mlc_ext.mutual_labels)."""
    bins: int | None = None
    """None for exact Otsu thresholds, or the number of histogram bins."""
    detach_iou_target: bool = True
    """Whether the IoU target is a constant of the IoU rescoring loss."""
    alignment: float = 0.0
    """Weight of the prediction alignment loss, MSE(S, I) over baseline positives (the paper's comparison); 0: off."""

    def __post_init__(self) -> None:
        if self.degenerate not in ("baseline", "literal"):
            raise ValueError(f"MLCConfig: degenerate must be 'baseline' or 'literal', got {self.degenerate!r}")
        for name in ("start_epoch", "alpha", "gamma", "alignment"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"MLCConfig: {name} must not be negative, got {getattr(self, name)}")
        if self.bins is not None and not 2 <= self.bins <= 65536:
            raise ValueError(f"MLCConfig: bins must be in [2, 65536] or None, got {self.bins}")


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
    """[N] bool: candidates that mutual labelling weighs by their margin (Eq. 7, 8)."""


@dataclass
class TaskTargets:
    """Who trains which task, for N priors. Normalisers are counts of positives, never sums of weights."""

    cls_labels: Tensor
    """[N] int64: 0 background, 1..C the class, -1 ignored."""
    cls_weights: Tensor
    """[N] float32 weights of the classification loss; 0 where ignored."""
    loc_weights: Tensor
    """[N] float32 weights of the localisation loss; 0 where not positive."""
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
    """(tau^cls [K], tau^loc [K]) where labelling was mutual."""

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
    """Targets of both tasks, the baseline's or the mutual ones. No host synchronisation.

    Args:
        assignment: of the batch's N priors.
        cls_logits: [N, C] class logits; C = 1 for RPN's objectness.
        boxes: [N, 4] decoded predictions, xyxy pixels.
        gt_boxes: [K, 4] xyxy pixels of the whole batch, without crowd.
        gt_labels: [K] int64 in 1..C.
        config: alpha, degenerate rule and bins are read.
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
        result = mutual_labels(
            scores.detach(),
            ious.detach(),
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


def mlc_losses(targets: TaskTargets, iou_logits: Tensor | None, config: MLCConfig) -> dict[str, Tensor]:
    """What the method adds to the detector's own losses, weighted and normalised.

    Args:
        targets: of :func:`task_targets`.
        iou_logits: [N] logits of the predicted IoU, or None without an IoU layer.

    Returns:
        ``iou_rescoring`` = gamma * sum (P_j - I_j)^2 / |A+cls u A+loc| (Eq. 10, 11) with ``config.iur``;
        ``prediction_alignment`` with a positive ``config.alignment``.
    """
    losses = {}
    if config.iur:
        if iou_logits is None:
            raise ValueError("mlc_losses: config.iur is on but the head gave no iou_logits")
        total = iou_rescoring_loss(
            iou_logits, targets.ious, targets.iou_positive, detach_target=config.detach_iou_target
        )
        losses["iou_rescoring"] = config.gamma * total / normaliser(targets.iou_positive.sum())
    if config.alignment > 0:
        total = prediction_alignment_loss(targets.scores, targets.ious, targets.baseline_positive)
        losses["prediction_alignment"] = config.alignment * total / normaliser(targets.baseline_positive.sum())
    return losses
