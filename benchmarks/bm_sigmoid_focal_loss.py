"""sigmoid_focal_loss, forward and backward, against torchvision's, or its formula in eager torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from _harness import Case, Settings
from _torchvision import torchvision

from mlc_ext import sigmoid_focal_loss

SIZES = [(10_000, 80), (40_000, 80), (40_000, 20), (200_000, 80)]
POSITIVE, IGNORED = 0.01, 0.02
"""Shares of the priors."""


def formula(logits: torch.Tensor, target: torch.Tensor, alpha: float = 0.25, gamma: float = 2.0) -> torch.Tensor:
    """torchvision.ops.sigmoid_focal_loss."""
    p = logits.sigmoid()
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    loss = loss * (1 - (p * target + (1 - p) * (1 - target))) ** gamma
    return (alpha * target + (1 - alpha) * (1 - target)) * loss


def one_hot_focal_loss(
    logits: torch.Tensor, labels: torch.Tensor, function: Callable[..., torch.Tensor] = formula
) -> torch.Tensor:
    """The sum over the priors that are not ignored."""
    target = F.one_hot(labels.clamp(min=0), logits.shape[1] + 1)[:, 1:].to(logits.dtype)
    return (function(logits, target) * (labels >= 0)[:, None]).sum()


def cases(settings: Settings) -> Iterator[Case]:
    for n, classes in SIZES[:1] if settings.quick else SIZES:
        yield case(n, classes, torch.float32, settings)


def case(n: int, classes: int, dtype: torch.dtype, settings: Settings) -> Case:
    generator = torch.Generator().manual_seed(0)
    # a head's logits at first: its bias is -log 99
    logits = (torch.randn(n, classes, generator=generator) - 4.6).to(settings.device, dtype).requires_grad_()
    share, labels = torch.rand(n, generator=generator), torch.randint(1, classes + 1, (n,), generator=generator)
    labels = labels.where(share < POSITIVE, 0).where(share < 1 - IGNORED, -1).to(settings.device)

    def step(function: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        total = function(logits, labels)
        return total.detach(), torch.autograd.grad(total, logits)[0]

    def check() -> None:
        single = logits.detach().float().requires_grad_()
        theirs = one_hot_focal_loss(single, labels)
        ours, gradient = step(sigmoid_focal_loss)
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient.float(), torch.autograd.grad(theirs, single)[0], rtol=1e-2, atol=1e-6)

    peers = {"torch, one-hot": lambda: step(one_hot_focal_loss)}
    if vision := torchvision(settings.device):
        theirs = vision.ops.sigmoid_focal_loss
        peers = {"torchvision": lambda: step(lambda *given: one_hot_focal_loss(*given, theirs))}
    # logits are read twice, the gradient is written
    return Case(
        f"{n:,} x {classes}, {str(dtype).removeprefix('torch.')}, fwd + bwd",
        lambda: step(sigmoid_focal_loss),
        peers,
        check,
        moved_bytes=(3 * classes * logits.element_size() + 16) * n,
    )
