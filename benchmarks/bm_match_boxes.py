"""match_boxes against the matrix matcher (IoU matrix, maxima of rows and columns, low-quality matches), and
torchvision's where it is installed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _box_peers import boxes, torch_iou
from _harness import Case, Settings
from _torchvision import torchvision
from torch import Tensor

from mlc_ext import match_boxes
from mlc_ext.detectors.models.anchors import AnchorGenerator

# kind of priors, how many (about), gts of an image, images
SIZES = [
    ("anchors", 20_000, 20, 1),
    ("random", 200_000, 100, 1),
    ("anchors", 200_000, 100, 1),
    ("anchors", 200_000, 100, 4),
]
HIGH, LOW = 0.5, 0.4
PAIR_OPERATIONS = 2 * 12
"""Of two passes over a pair: the sides of the intersection, areas, comparison."""


def image_size(kind: str, n: int) -> tuple[int, int]:
    return (256, 416) if kind == "anchors" and n <= 100_000 else (800, 1333)


def priors(kind: str, n: int, device: str) -> Tensor:
    if kind == "random":
        return boxes(n, device)
    height, width = image_size(kind, n)
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


def by_torchvision(vision, anchors: Tensor, gts: Tensor) -> Tensor:
    """[A] labels of one image."""
    from torchvision.models.detection._utils import Matcher

    matcher = Matcher(HIGH, LOW, allow_low_quality_matches=True)
    matches = matcher(vision.ops.box_iou(gts, anchors))
    return torch.where(matches >= 0, 1, torch.where(matches == Matcher.BELOW_LOW_THRESHOLD, 0, -1)).to(torch.int8)


def cases(settings: Settings) -> Iterator[Case]:
    for size in SIZES[:1] if settings.quick else SIZES:
        yield case(*size, settings)


def case(kind: str, n: int, num_gts: int, images: int, settings: Settings) -> Case:
    anchors = priors(kind, n, settings.device)
    # of the image's size: torchvision gives a gt that meets no anchor all of them
    gts = boxes(num_gts * images, settings.device, seed=1) * (image_size(kind, n)[0] / 800)
    offsets = (torch.arange(images + 1) * num_gts).to(settings.device)

    def ours():
        return match_boxes(anchors, gts, offsets, high=HIGH, low=LOW)

    def peer() -> list[Tensor]:
        return [by_matrix(anchors, part) for part in gts.split(num_gts)]

    peers = {"torch, matrix": peer}
    if vision := torchvision(settings.device):
        peers["torchvision"] = lambda: [by_torchvision(vision, anchors, part) for part in gts.split(num_gts)]

    def check() -> None:
        for name, of_peer in peers.items():
            wrong = (ours().labels != torch.stack(of_peer())).sum().item()
            if wrong > len(anchors) * images / 1000:  # an IoU that rounds to the other side of a threshold
                raise AssertionError(f"{wrong} labels differ from {name}'s")

    pairs = len(anchors) * num_gts * images
    name = f"{len(anchors):,} {kind} x {num_gts} x {images}"
    # labels, indices and IoUs of every prior
    moved = 13 * len(anchors) * images
    return Case(name, ours, peers, check, moved_bytes=moved, lane_operations=PAIR_OPERATIONS * pairs)
