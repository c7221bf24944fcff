"""Losses of dense detectors and of the method. Each is a sum, which the caller divides by its :func:`normalizer`.

For every loss:

- Half-precision inputs are computed and returned in float32; float64 stays float64.
- ``weights`` (or a bool mask) are constants, one per prior. A prior of weight 0 adds nothing to the loss and the
  gradient, whatever its values. Nothing is indexed by a mask, which would synchronize the host.
- Without priors, or without selected ones, the loss is 0 and still part of the graph, so that every parameter gets a
  gradient on every rank of a distributed run.
- ValueError: shapes disagree, or an option is out of its range. TypeError: a dtype is wrong.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ._dtypes import at_least_float32
from ._errors import check_floating
from ._loss_inputs import aligned, check_pair, check_vectors, check_weights, select, weighted_sum
from ._quality_losses import quality_focal_loss, varifocal_loss
from ._ranks import world_size
from .ops import iou_loss, sigmoid_focal_loss

__all__ = [
    "binary_cross_entropy_loss",
    "centerness_loss",
    "centerness_target",
    "count_per_image",
    "iou_loss",
    "iou_rescoring_loss",
    "l1_loss",
    "normalizer",
    "prediction_alignment_loss",
    "quality_focal_loss",
    "reduce_mean",
    "sigmoid_focal_loss",
    "smooth_l1",
    "varifocal_loss",
]


def smooth_l1(predictions: Tensor, targets: Tensor, weights: Tensor | None = None, *, beta: float) -> Tensor:
    """Sum of the smooth L1 losses: d^2 / (2 beta) for |d| < beta, else |d| - beta / 2; L1 for beta = 0.

    Args:
        predictions: [N, D] floating point, in any unit (RetinaNet: box deltas, D = 4).
        targets: [N, D]. Constants.
        weights: [N] weights or mask of the rows, None for 1.
        beta: >= 0, in the unit of predictions.

    Returns:
        Scalar sum over N and D.

    Raises:
        TypeError: a dtype is not floating point. ValueError: shapes disagree, or beta is negative.

    Source: Girshick 2015, Eq. 3, with the scale beta of MMDetection and torch.
    """
    check_pair("smooth_l1", "predictions", predictions, "targets", targets)
    if predictions.dim() != 2:
        raise ValueError(f"smooth_l1: predictions must have shape [N, D], got {list(predictions.shape)}")
    check_weights("smooth_l1", weights, predictions.shape[0])
    if not beta >= 0:
        raise ValueError(f"smooth_l1: beta must not be negative, got {beta}")
    predictions, targets = aligned(predictions, targets.detach())
    difference = select(predictions - targets, weights)
    losses = F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none", beta=beta)
    return weighted_sum(losses, weights)


def l1_loss(predictions: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of |predictions - targets|: :func:`smooth_l1` with beta = 0.

    Args:
        predictions: [N, D] floating point, in any unit.
        targets: [N, D]. Constants.
        weights: [N] weights or mask of the rows, None for 1.

    Returns:
        Scalar sum over N and D.

    Raises:
        TypeError, ValueError: as :func:`smooth_l1`.
    """
    return smooth_l1(predictions, targets, weights, beta=0.0)


def binary_cross_entropy_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of the binary cross-entropies of sigmoid(logits), e.g. RPN's objectness.

    Args:
        logits: [N] floating point.
        targets: [N] in [0, 1], floating point. Constants.
        weights: [N] weights or mask (0 for ignored priors), None for 1.

    Returns:
        Scalar sum over N.

    Raises:
        TypeError: a dtype is not floating point. ValueError: shapes disagree.
    """
    check_vectors("binary_cross_entropy_loss", "logits", logits, "targets", targets, weights)
    logits, targets = aligned(logits, targets.detach())
    logits, targets = select(logits, weights), select(targets, weights)
    return weighted_sum(F.binary_cross_entropy_with_logits(logits, targets, reduction="none"), weights)


@torch.no_grad()
def centerness_target(ltrb: Tensor) -> Tensor:
    """FCOS's centerness of points: sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)).

    Args:
        ltrb: [..., 4] distances to the left, top, right and bottom side of the gt box, in any unit.

    Returns:
        [...] in [0, 1], at least float32: 1 at the center, 0 on a side and outside the box. A constant.

    Raises:
        TypeError: ltrb is not floating point. ValueError: its last dimension is not 4.

    Source: Tian et al. 2019, Eq. 3.
    """
    if ltrb.dim() == 0 or ltrb.shape[-1] != 4:
        raise ValueError(f"centerness_target: ltrb must have shape [..., 4], got {list(ltrb.shape)}")
    check_floating("centerness_target", "ltrb", ltrb)
    ltrb = at_least_float32(ltrb)
    low = torch.minimum(ltrb[..., :2], ltrb[..., 2:])
    high = torch.maximum(ltrb[..., :2], ltrb[..., 2:])
    inside = low > 0  # per axis: two negative ratios must not make a positive product
    return torch.where(inside, low / torch.where(inside, high, 1), 0).prod(-1).sqrt()


def centerness_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of the binary cross-entropies of the centerness branch.

    Args:
        logits: [N] centerness logits.
        targets: [N] of :func:`centerness_target`.
        weights: [N] weights or mask of the positives, None for 1.

    Returns:
        Scalar sum over N.

    Raises:
        TypeError: a dtype is not floating point. ValueError: shapes disagree.

    Source: Tian et al. 2019.
    """
    return binary_cross_entropy_loss(logits, targets, weights)


def iou_rescoring_loss(
    iou_logits: Tensor, target_ious: Tensor, weights: Tensor | None = None, *, detach_target: bool = True
) -> Tensor:
    """Sum of (P_j - I_j)^2 with P = sigmoid(iou_logits) (Eq. 10).

    Args:
        iou_logits: [N] logits of the predicted IoU.
        target_ious: [N] I_j in [0, 1], the IoU of the decoded box with its gt.
        weights: [N] weights or the mask of A+cls u A+loc, None for 1.
        detach_target: whether I_j is a constant. If not, the loss has a gradient with respect to the boxes too.

    Returns:
        Scalar sum over N.

    Raises:
        TypeError: a dtype is not floating point. ValueError: shapes disagree.

    Source: paper Eq. 10.
    """
    check_vectors("iou_rescoring_loss", "iou_logits", iou_logits, "target_ious", target_ious, weights)
    if detach_target:
        target_ious = target_ious.detach()
    iou_logits, target_ious = aligned(iou_logits, target_ious)
    predicted = select(iou_logits, weights).sigmoid()
    return weighted_sum((predicted - select(target_ious, weights)) ** 2, weights)


def prediction_alignment_loss(scores: Tensor, ious: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of (S_j - I_j)^2 with a gradient through both branches: the paper's comparison (Table 1).

    Args:
        scores: [N] S_j in [0, 1], the sigmoid score of the class of the prior's gt.
        ious: [N] I_j in [0, 1], the IoU of the decoded box with its gt.
        weights: [N] weights or the mask of the baseline's positives, None for 1.

    Returns:
        Scalar sum over N.

    Raises:
        TypeError: a dtype is not floating point. ValueError: shapes disagree.
    """
    check_vectors("prediction_alignment_loss", "scores", scores, "ious", ious, weights)
    scores, ious = aligned(scores, ious)
    return weighted_sum((select(scores, weights) - select(ious, weights)) ** 2, weights)


def reduce_mean(value: Tensor) -> Tensor:
    """The mean of a tensor over the ranks of torch.distributed. No host synchronization.

    Args:
        value: a tensor on the rank's device. Every rank must call this with a tensor of the same shape.

    Returns:
        The mean, a constant of at least float32; the value itself without an initialized process group.

    Raises:
        TypeError: value is not a tensor.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"reduce_mean: value must be a tensor on the rank's device, got {value!r}")
    value = at_least_float32(value.detach())
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= world_size()
    return value


def count_per_image(mask: Tensor, num_images: int) -> Tensor:
    """The number of True of a mask, at least one per image, as in MMDetection's anchor heads.

    FCOS counts over the whole batch: there it is ``mask.sum()``.

    Args:
        mask: [num_images * A] bool, the images one after another.
        num_images: the number of images in the batch.

    Returns:
        Scalar int64.
    """
    return mask.view(num_images, -1).sum(1).clamp(min=1).sum()


def normalizer(count: Tensor) -> Tensor:
    """The divisor of a rank's sum of losses: the mean over ranks of the count of positives, their sum at least 1.

    With it the mean of the ranks' losses equals the loss of one process that has all images, however few the positives.

    Args:
        count: scalar tensor, the rank's number of positives, on the rank's device. Every rank must call this.

    Returns:
        Scalar of at least float32, a constant.

    Raises:
        TypeError: count is not a tensor.
    """
    return reduce_mean(count).clamp(min=1 / world_size())
