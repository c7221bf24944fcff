"""sigmoid_focal_loss: the classification loss, fused. The rule and its contract: csrc/sigmoid_focal_loss.h."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import call, check_tensors
from .._loss_inputs import row_weights
from ._register import differentiable_loss, fake_of


def sigmoid_focal_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sum of the focal losses of C one-against-all classifiers.

    With p = sigmoid(logit) an entry costs ``-alpha (1 - p)^gamma log p`` in the column of the prior's class
    and ``-(1 - alpha) p^gamma log(1 - p)`` in every other one. Forward and backward are one pass over the logits each:
    of the [N, C] tensors only ``logits`` is kept for the backward pass, and no other one of that size is made but the
    gradient.

    Args:
        logits: [N, C] floating point. Half types are computed in float32; the gradient has the logits' dtype.
        labels: [N] int64: 0 background, 1..C the class, -1 ignored (no loss).
        weights: [N] weights or mask of the priors, None for 1. Constants; a prior of weight 0 adds nothing to the loss
            and the gradient, whatever its values.
        alpha: weight of positives in [0, 1].
        gamma: focusing exponent, >= 0; alpha = 0.5 and gamma = 0 give half the binary cross-entropy.

    Returns:
        Scalar sum over N and C, at least float32. Differentiable once and in reverse mode. Its bits do not depend on
        the number of threads.

    Raises:
        TypeError: a dtype is wrong. ValueError: shapes or devices disagree, an option is out of its range, or (CPU
        only; on CUDA no synchronization is spent on it) a label is outside -1..C.

    Source: Lin et al. 2017, Eq. 5.
    """
    check_tensors("sigmoid_focal_loss", logits=logits, labels=labels)
    weights = row_weights("sigmoid_focal_loss", weights, logits.dtype)
    result: Tensor = call(_op, logits, labels, weights, alpha, gamma)
    return result


@fake_of("sigmoid_focal_loss")
def _(logits: Tensor, labels: Tensor, weights: Tensor | None, alpha: float, gamma: float) -> Tensor:
    return logits.new_empty((), dtype=torch.promote_types(logits.dtype, torch.float32))


@fake_of("sigmoid_focal_loss_backward")
def _(grad: Tensor, logits: Tensor, labels: Tensor, weights: Tensor | None, alpha: float, gamma: float) -> Tensor:
    return logits.new_empty(logits.shape)


# no cast under autocast: the kernels read half types, and a float32 copy of the logits would be a pass of its own
_op = differentiable_loss("sigmoid_focal_loss")
