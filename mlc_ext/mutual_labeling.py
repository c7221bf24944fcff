"""Mutual labeling and IoU rescoring for any dense detector: from a baseline's assignment to targets and losses.

A detector passes the :class:`Assignment` of the batch's priors, its class logits and its decoded boxes to
:func:`task_targets`. The returned :class:`TaskTargets` has the labels and weights of both tasks. Detectors differ only
in their assignment and in their own losses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ._cuts import MidpointThresholds, cut_values
from ._errors import check_int64, check_range, check_tensors
from .assignment import Assignment
from .config import MLCConfig
from .losses import iou_rescoring_loss, normalizer, prediction_alignment_loss
from .ops import mutual_labels, paired_box_iou
from .ops.mutual_labels import IGNORED, POSITIVE


@dataclass
class TaskTargets:
    """What the N priors of a batch train. Normalizers are counts of positives, never sums of weights."""

    cls_labels: Tensor
    """[N] int64: -1 ignored, 0 background, else 1 + the class column, whatever the gts' labels start at. It is the
    convention of :func:`mlc_ext.sigmoid_focal_loss`."""
    cls_weights: Tensor
    """[N] float32 weights of the classification loss; 0 where ignored."""
    loc_weights: Tensor
    """[N] float32 weights of the localization loss; 0 where not positive."""
    loc_positive: Tensor
    """[N] bool: A+loc, the positives of localization."""
    iou_positive: Tensor
    """[N] bool: the union of A+cls and A+loc, which trains the IoU layer."""
    baseline_positive: Tensor
    """[N] bool: the baseline's positives."""
    matched_boxes: Tensor
    """[N, 4] the gt box of each candidate; zeros for other priors."""
    ious: Tensor
    """[N] float32 I_j, the IoU of each candidate's decoded box with its gt, differentiable; 0 for other priors."""
    scores: Tensor
    """[N] float32 S_j, each candidate's score for the class of its gt, differentiable; 0 for other priors."""
    thresholds: tuple[Tensor, Tensor] | None = None
    """(tau^cls [K], tau^loc [K]) of mutual labeling, K the number of gts (1 for none); None for the baseline. With the
    metric "alignment" both are of that metric."""
    sampled_normalizer: Tensor | None = None
    """The divisor of every loss where priors were sampled (RPN); None: the counts of positives."""
    quality: Tensor | None = None
    """[N] float32 in [0, 1], constants: each candidate's target in a classification loss of quality. A detector with
    such a loss sets it."""

    @property
    def num_cls_positive(self) -> Tensor:
        """Scalar: the number of A+cls, the positives of classification."""
        return (self.cls_labels > 0).sum()

    @property
    def num_loc_positive(self) -> Tensor:
        """Scalar: the number of A+loc, the positives of localization."""
        return self.loc_positive.sum()

    def sampled(self, positive: Tensor, negative: Tensor, loc: Tensor, divisor: Tensor) -> TaskTargets:
        """The targets of the priors that were drawn (RPN).

        Args:
            positive, negative: [B, A] bool, the sample of classification.
            loc: [B, A] bool, the sample of localization.
            divisor: scalar, the divisor of every loss.
        """
        return replace(
            self,
            cls_weights=self.cls_weights * (positive | negative).flatten(),
            loc_weights=self.loc_weights * loc.flatten(),
            iou_positive=(positive | loc).flatten(),
            sampled_normalizer=divisor,
        )


def task_targets(
    assignment: Assignment,
    cls_logits: Tensor,
    boxes: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    config: MLCConfig,
    *,
    mutual: bool,
    first_label: int,
) -> TaskTargets:
    """Targets of both tasks: those of mutual labeling, or the baseline's. No host synchronization.

    Args:
        assignment: of the batch's N priors.
        cls_logits: [N, C] class logits of any floating dtype; C = 1 for RPN's objectness.
        boxes: [N, 4] decoded predictions, xyxy pixels, float32 or float64.
        gt_boxes: [K, 4] xyxy pixels of the whole batch, without crowd.
        gt_labels: [K] int64 in first_label .. first_label + C - 1. For RPN, ``first_label`` for every gt.
        config: alpha, degenerate, metric, min_gap, tau and bins are read. The candidates are the assignment's.
        mutual: whether Eq. 4-8 give the targets, or the baseline.
        first_label: the label of class column 0. Labels 1..C with C columns: 1. MMDetection, 0..C-1: 0. torchvision,
            whose COCO models have 91 columns for the labels 1..90: 0.

    Returns:
        :class:`TaskTargets`.

    Raises:
        TypeError: boxes are in half precision, or labels not int64. ValueError: a shape is wrong, or (CPU only; on CUDA
        no synchronization is spent on it) a label is out of range.

    Source: paper Eq. 4-8.
    """
    _check_task_inputs(assignment, cls_logits, boxes, gt_boxes, gt_labels, first_label)
    candidate = assignment.candidate_gt >= 0
    gt_columns = gt_labels - first_label
    if gt_boxes.shape[0] == 0:  # nothing to gather from
        gt_boxes, gt_columns = gt_boxes.new_zeros(1, 4), gt_columns.new_zeros(1)
    gt, num_gts = assignment.candidate_gt.clamp(min=0), gt_boxes.shape[0]
    matched_boxes = gt_boxes[gt].to(boxes.dtype) * candidate[:, None]
    columns = gt_columns[gt]
    ious = paired_box_iou(boxes, matched_boxes).float() * candidate
    logits = cls_logits.gather(1, columns[:, None]).squeeze(1)
    scores = logits.float().sigmoid() * candidate

    thresholds = None
    if mutual:
        baseline = torch.where(assignment.originally_ignored, IGNORED, assignment.labels)
        by_score, by_iou = cut_values(scores.detach(), ious.detach(), assignment.candidate_gt, num_gts, config)
        result = mutual_labels(
            by_score,
            by_iou,
            assignment.candidate_gt,
            baseline,
            num_gts,
            alpha=config.alpha,
            degenerate=config.degenerate,
            bins=config.bins,
        )
        labels, cls_weights = result.cls_labels, result.cls_weights
        loc_positive, loc_weights = result.loc_labels == POSITIVE, result.loc_weights
        thresholds = (result.score_thresholds, result.iou_thresholds)
        if config.tau == "midpoint":
            ignored = candidate & (baseline == IGNORED)
            moved_score = MidpointThresholds(by_score, thresholds[0], gt)
            moved_iou = MidpointThresholds(by_iou, thresholds[1], gt)
            loc_weights = moved_score.weights(loc_weights, ignored & loc_positive, config.alpha)
            cls_weights = moved_iou.weights(cls_weights, ignored, config.alpha)
            thresholds = (moved_score.tau, moved_iou.tau)
    else:
        labels = assignment.labels
        loc_positive = labels == POSITIVE
        cls_weights, loc_weights = (labels != IGNORED).float(), loc_positive.float()
    cls_positive = labels == POSITIVE
    return TaskTargets(
        cls_labels=torch.where(cls_positive, columns + 1, labels.long()),
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


def _check_task_inputs(
    assignment: Assignment, cls_logits: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_labels: Tensor, first_label: int
) -> None:
    op, n = "task_targets", len(assignment.labels)
    check_tensors(op, cls_logits=cls_logits, boxes=boxes, gt_boxes=gt_boxes, gt_labels=gt_labels)
    if boxes.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{op}: boxes must be float32 or float64, got {boxes.dtype}. Decode them in float32: convert the predicted "
            "offsets before the decoding. Half precision changes the IoU with the gt by 0.1 to 0.2"
        )
    check_int64(op, "gt_labels", gt_labels)
    if boxes.shape != (n, 4):
        raise ValueError(f"{op}: boxes must have shape [{n}, 4] for {n} assigned priors, got {list(boxes.shape)}")
    if cls_logits.dim() != 2 or cls_logits.shape[0] != n:
        raise ValueError(f"{op}: cls_logits must have shape [{n}, C], got {list(cls_logits.shape)}")
    if gt_labels.dim() != 1 or gt_boxes.shape != (len(gt_labels), 4):
        shapes = f"{list(gt_boxes.shape)} and {list(gt_labels.shape)}"
        raise ValueError(f"{op}: gt_boxes must have shape [K, 4] and gt_labels [K], got {shapes}")
    if gt_labels.device.type == "cpu" and not torch.compiler.is_compiling():
        num_classes = cls_logits.shape[1]
        note = f" ({num_classes} class columns and first_label={first_label})"
        check_range(op, "gt_labels", gt_labels, first_label, first_label + num_classes - 1, note)


def mlc_losses(
    targets: TaskTargets, iou_logits: Tensor | None, config: MLCConfig, *, rescoring: bool = True
) -> dict[str, Tensor]:
    """The losses that the method adds to the detector's own, weighted and normalized.

    Args:
        targets: of :func:`task_targets`.
        iou_logits: [N] logits of the predicted IoU, or None without an IoU layer.
        config: iur, gamma, detach_iou_target and alignment are read.
        rescoring: whether training of the IoU layer has started (``config.rescoring_start``). If not, its loss is 0 and
            still part of the graph, so that the layer gets a gradient on every rank.

    Returns:
        A dict of scalars. With ``config.iur``: ``iou_rescoring`` = gamma * sum (P_j - I_j)^2 / |A+cls u A+loc| (Eq. 10,
        11); the divisor is ``targets.sampled_normalizer`` where that is given. With ``config.alignment`` > 0:
        ``prediction_alignment``.

    Raises:
        ValueError: ``config.iur`` is on and ``iou_logits`` is None.

    Source: paper Eq. 10 and 11; Table 1 for prediction alignment.
    """
    losses: dict[str, Tensor] = {}
    if config.iur:
        if iou_logits is None:
            raise ValueError("mlc_losses: config.iur is on, but iou_logits is None")
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
