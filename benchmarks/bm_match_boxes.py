"""match_boxes against the matrix matcher: IoU matrix, maxima of rows and columns, low-quality matches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _box_peers import boxes, torch_iou
from _harness import Case, Settings
from torch import Tensor

from detectors.anchors import AnchorGenerator
from mlc_ext import match_boxes

# kind of priors, how many (about), gts of an image, images
SIZES = [
    ("anchors", 20_000, 20, 1),
    ("random", 200_000, 100, 1),
    ("anchors", 200_000, 100, 1),
    ("anchors", 200_000, 100, 4),
]
HIGH, LOW = 0.5, 0.4


def priors(kind: str, n: int, device: str) -> Tensor:
    if kind == "random":
        return boxes(n, device)
    height, width = (800, 1333) if n > 100_000 else (256, 416)
    sizes = [(-(-height // s), -(-width // s)) for s in (8, 16, 32, 64, 128)]
    return torch.cat(AnchorGenerator.retinanet()(sizes, device=torch.device(device)))


def by_matrix(anchors: Tensor, gts: Tensor) -> Tensor:
    """[A] labels of one image, as torchvision's and MMDetection's matchers find them."""
    matrix = torch_iou(gts[:, None], anchors[None])  # [G, A]
    best, _ = matrix.max(dim=0)
    labels = torch.full_like(best, -1, dtype=torch.int8)
    labels[best < LOW] = 0
    labels[best >= HIGH] = 1
    of_gt = matrix.max(dim=1).values
    labels[torch.where((matrix == of_gt[:, None]) & (of_gt[:, None] > 0))[1]] = 1
    return labels


def cases(settings: Settings) -> Iterator[Case]:
    for size in SIZES[:1] if settings.quick else SIZES:
        yield case(*size, settings)


def case(kind: str, n: int, num_gts: int, images: int, settings: Settings) -> Case:
    anchors = priors(kind, n, settings.device)
    gts = boxes(num_gts * images, settings.device, seed=1)
    offsets = (torch.arange(images + 1) * num_gts).to(settings.device)

    def ours():
        return match_boxes(anchors, gts, offsets, high=HIGH, low=LOW)

    def peer() -> list[Tensor]:
        return [by_matrix(anchors, part) for part in gts.split(num_gts)]

    def check() -> None:
        wrong = (ours().labels != torch.stack(peer())).sum().item()
        if wrong > len(anchors) * images / 1000:  # an IoU that rounds to the other side of a threshold
            raise AssertionError(f"{wrong} labels differ from the peer's")

    return Case(f"{len(anchors):,} {kind} x {num_gts} x {images}", ours, {"torch, matrix": peer}, check)
