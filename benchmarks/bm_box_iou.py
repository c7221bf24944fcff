"""box_iou against the same matrix in torch, and torchvision's where it is installed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _box_peers import boxes, torch_iou
from _harness import Case, Settings
from _torchvision import torchvision

from mlc_ext import box_iou

SIZES = [(1000, 1000), (20_000, 100), (200_000, 100), (200_000, 500)]


def cases(settings: Settings) -> Iterator[Case]:
    for n, m in SIZES[:2] if settings.quick else SIZES:
        yield case(n, m, settings)


def case(n: int, m: int, settings: Settings) -> Case:
    a, b = boxes(n, settings.device), boxes(m, settings.device, seed=1)

    def peer() -> torch.Tensor:
        return torch_iou(a[:, None], b[None])

    peers = {"torch": peer}
    if vision := torchvision(settings.device):
        peers["torchvision"] = lambda: vision.ops.box_iou(a, b)

    def check() -> None:
        for of_peer in peers.values():
            torch.testing.assert_close(box_iou(a, b), of_peer())

    written = 4 * n * m
    return Case(f"{n:,} x {m:,}", lambda: box_iou(a, b), peers, check, written_bytes=written)
