"""Classification losses whose target for a positive is the quality of its box, e.g. the IoU with its gt."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._errors import check_floating, check_int64, check_range, check_shape, check_tensors
from ._loss_inputs import aligned, check_weights, select, weighted_sum


def quality_focal_loss(
    logits: Tensor, labels: Tensor, quality: Tensor, weights: Tensor | None = None, *, beta: float = 2.0
) -> Tensor:
    """Sum of the quality focal losses of C one-against-all classifiers.

    With p = sigmoid(logit) and the target q an entry costs ``|q - p|^beta * -(q log p + (1 - q) log(1 - p))``. q is the
    prior's quality in the column of its class, and 0 in every other one.

    Args:
        logits: [N, C] floating point. Half types are computed in float32.
        labels: [N] int64: 0 background, 1..C the class, -1 ignored (no loss), as for
            :func:`mlc_ext.sigmoid_focal_loss`.
        quality: [N] in [0, 1], floating point, read where the label is a class. Constants.
        weights: [N] weights or mask of the priors, None for 1. Constants.
        beta: exponent, >= 1.

    Returns:
        Scalar sum over N and C.

    Raises:
        TypeError: a dtype is wrong. ValueError: shapes disagree, beta is out of its range, or (CPU only; on CUDA no
        synchronization is spent on it) a label is outside -1..C.

    Source: Li et al. 2020 (GFL), Eq. 4.
    """
    op = "quality_focal_loss"
    _check_exponent(op, "beta", beta)
    logits, target, weights = _inputs(op, logits, labels, quality, weights)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return weighted_sum((target - logits.sigmoid()).abs().pow(beta) * entropy, weights)


def varifocal_loss(
    logits: Tensor,
    labels: Tensor,
    quality: Tensor,
    weights: Tensor | None = None,
    *,
    alpha: float = 0.75,
    gamma: float = 2.0,
) -> Tensor:
    """Sum of the varifocal losses of C one-against-all classifiers.

    With p = sigmoid(logit) and the target q an entry costs ``-q (q log p + (1 - q) log(1 - p))`` where q > 0, and
    ``-alpha p^gamma log(1 - p)`` where q = 0. q is the prior's quality in the column of its class, and 0 in every other
    one: a positive of quality 0 counts as background.

    Args:
        logits, labels, quality, weights: as for :func:`quality_focal_loss`.
        alpha: weight of the entries with q = 0, >= 0.
        gamma: their exponent, >= 1.

    Returns:
        Scalar sum over N and C.

    Raises:
        TypeError, ValueError: as :func:`quality_focal_loss`.

    Source: Zhang et al. 2021 (VarifocalNet), Eq. 2.
    """
    op = "varifocal_loss"
    _check_exponent(op, "gamma", gamma)
    if not (alpha >= 0 and math.isfinite(alpha)):
        raise ValueError(f"{op}: alpha must be finite and not negative, got {alpha}")
    logits, target, weights = _inputs(op, logits, labels, quality, weights)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    factor = torch.where(target > 0, target, alpha * logits.sigmoid().pow(gamma))
    return weighted_sum(factor * entropy, weights)


def _check_exponent(op: str, name: str, value: float) -> None:
    """Below 1 the gradient is infinite where the base is 0."""
    if not (value >= 1 and math.isfinite(value)):
        raise ValueError(f"{op}: {name} must be finite and at least 1, got {value}")


def _inputs(
    op: str, logits: Tensor, labels: Tensor, quality: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """-> logits [N, C], targets [N, C], weights [N], which are 0 where the label is -1."""
    check_tensors(op, logits=logits, labels=labels, quality=quality)
    check_floating(op, "logits", logits)
    check_floating(op, "quality", quality)
    if logits.dim() != 2 or logits.shape[1] == 0:
        raise ValueError(f"{op}: logits must have shape [N, C] with C >= 1, got {list(logits.shape)}")
    n, num_classes = logits.shape
    check_int64(op, "labels", labels)
    check_shape(op, "labels", labels, (n,))
    check_shape(op, "quality", quality, (n,))
    check_weights(op, weights, n)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        check_range(op, "labels", labels, -1, num_classes)
    counted = labels >= 0
    weights = counted if weights is None else torch.where(counted, weights.detach(), 0)
    logits, quality = aligned(logits, quality.detach())
    logits = select(logits, weights)
    target = torch.where(labels > 0, select(quality, weights), 0)
    columns = (labels - 1).clamp(min=0)[:, None]
    return logits, torch.zeros_like(logits).scatter(1, columns, target[:, None]), weights
