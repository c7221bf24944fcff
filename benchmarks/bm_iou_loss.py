"""iou_loss, forward and backward, against indexing the positives and torchvision's loss, or its formula in eager
torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from _box_peers import boxes, torch_iou
from _harness import Case, Settings
from _torchvision import torchvision

from mlc_ext import iou_loss

SIZES = [(10_000, 100), (40_000, 300), (40_000, 40_000), (200_000, 2000)]


def cases(settings: Settings) -> Iterator[Case]:
    for kind in ("iou", "giou"):
        for n, positive in SIZES[:1] if settings.quick else SIZES:
            yield case(n, positive, kind, settings)


def case(n: int, positive: int, kind: str, settings: Settings) -> Case:
    targets = boxes(n, settings.device)
    predicted = boxes(n, settings.device, seed=1, jitter_of=targets).requires_grad_()
    mask = torch.zeros(n, dtype=torch.bool)
    mask[torch.randperm(n, generator=torch.Generator().manual_seed(0))[:positive]] = True
    mask = mask.to(settings.device)
    weights = mask.float()

    def step(function: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        total = function()
        return total.detach(), torch.autograd.grad(total, predicted)[0]

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        return step(lambda: iou_loss(predicted, targets, weights, kind=kind))

    def of_indexed() -> torch.Tensor:
        iou = torch_iou(predicted[mask], targets[mask], generalized=kind == "giou")
        return (1 - iou if kind == "giou" else -iou.clamp(min=1e-6).log()).sum()

    def check() -> None:
        for found, expected in zip(ours(), step(of_indexed), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

    peers = {"torch, indexed": lambda: step(of_indexed)}
    if kind == "giou" and (vision := torchvision(settings.device)):
        theirs = vision.ops.generalized_box_iou_loss
        peers = {"torchvision": lambda: step(lambda: theirs(predicted[mask], targets[mask], reduction="sum"))}
    # weights are read twice, the gradient is written; a positive's boxes are read twice
    return Case(
        f"{kind}, {n:,} priors, {positive:,} positive, fwd + bwd",
        ours,
        peers,
        check,
        moved_bytes=24 * n + 64 * positive,
    )
