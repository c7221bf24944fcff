"""paired_box_iou, forward and backward, against eager torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from _box_peers import boxes, torch_iou
from _harness import Case, Settings

from mlc_ext import paired_box_iou

SIZES = [1000, 10_000, 100_000, 1_000_000]


def cases(settings: Settings) -> Iterator[Case]:
    for kind in ("iou", "giou"):
        for n in SIZES[:2] if settings.quick else SIZES:
            yield case(n, kind, settings)


def case(n: int, kind: str, settings: Settings) -> Case:
    target = boxes(n, settings.device)
    predicted = boxes(n, settings.device, seed=1, jitter_of=target).requires_grad_()

    def step(function: Callable[[], torch.Tensor]) -> torch.Tensor:
        (grad,) = torch.autograd.grad(function().sum(), predicted)
        return grad

    def ours() -> torch.Tensor:
        return step(lambda: paired_box_iou(predicted, target, kind=kind))

    def peer() -> torch.Tensor:
        return step(lambda: torch_iou(predicted, target, generalized=kind == "giou"))

    def check() -> None:
        torch.testing.assert_close(ours(), peer(), rtol=1e-4, atol=1e-4)

    # forward: two boxes, a value; backward: two boxes, a gradient
    return Case(f"{kind}, {n:,} pairs, fwd + bwd", ours, {"torch, eager": peer}, check, moved_bytes=84 * n)
