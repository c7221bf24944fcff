"""NegativeLoss: AutoAssign's loss of negatives, with gradients that are computed in the forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._selection import row_chunks

EPSILON = 1e-12
"""The least divisor, and the least 1 - q whose logarithm is taken, as in MMDetection."""


class NegativeLoss(torch.autograd.Function):
    """The sum of q^2 * -log(1 - q) over points and classes, q = score * objectness * weight.

    The gradients are computed with the loss, a few rows at a time, so that no intermediate leaves the cache.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, objectness: Tensor, weights: Tensor) -> Tensor:
        total = logits.new_zeros(())
        of_logits, of_objectness = torch.empty_like(logits), torch.empty_like(objectness)
        parts = row_chunks(logits, objectness[:, None], weights, of_logits, of_objectness)
        for logit, objects, weight, to_logits, to_objectness in parts:
            score, other = logit.sigmoid(), objects.sigmoid()
            q = (score * other).mul_(weight)
            rest = (1 - q).clamp_(min=EPSILON)
            entropy = rest.log().neg_()
            square = q * q
            total += (square * entropy).sum()
            # q df/dq, and dq / dlogit = q (1 - score)
            slope = square.mul_(entropy.mul_(2).add_(q.div_(rest)))
            torch.mul(slope, score.neg_().add_(1), out=to_logits)
            torch.mul(slope.sum(1), (1 - other).squeeze(1), out=to_objectness)
        ctx.save_for_backward(of_logits, of_objectness)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        of_logits, of_objectness = ctx.saved_tensors
        return of_logits * grad, of_objectness * grad, None
