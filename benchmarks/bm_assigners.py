"""The label assigners against the same rules by matrices of all priors and gts, image by image, as MMDetection writes
them. 80 classes; AutoAssign with its backward pass.

Predicted before the first measurement (20k priors x 50 gts x 2 images, 1 thread, ours / peer in ms): ATSS 3 / 45,
TaskAligned 5 / 35, SimOTA 12 / 1500, PAA 15 / 200, MAL 4 / 30, AutoAssign 40 / 400.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import _assigner_peers as peers
import torch
from _harness import Case, Settings
from torch import Tensor

from mlc_ext import Assignment
from mlc_ext.assigners import (
    ATSSAssigner,
    AutoAssignCriterion,
    MALAssigner,
    PAAAssigner,
    Predictions,
    SimOTAAssigner,
    TaskAlignedAssigner,
)

STRIDES = (8, 16, 32, 64, 128)
CLASSES = 80
# image height and width, gts of an image, images
SIZES = [(256, 416, 8, 2), (800, 1216, 50, 2)]
PROGRESS = 0.5


class Inputs:
    """A batch: one point and one square anchor a location, boxes and scores near what a trained detector gives."""

    def __init__(self, height: int, width: int, num_gts: int, images: int, device: str) -> None:
        g = torch.Generator().manual_seed(0)
        levels = []
        for stride in STRIDES:
            y, x = torch.meshgrid(torch.arange(-(-height // stride)), torch.arange(-(-width // stride)), indexing="ij")
            levels.append((torch.stack((x.flatten(), y.flatten()), 1) + 0.5) * stride)
        self.points = [level.to(device) for level in levels]
        self.strides = torch.cat(
            [level.new_full((len(level),), s) for level, s in zip(self.points, STRIDES, strict=True)]
        )
        half = 4 * self.strides[:, None]
        points = torch.cat(self.points)
        sizes = [len(level) for level in self.points]
        anchors = torch.cat((points - half, points + half), 1)
        self.anchors = list(anchors.split(sizes))
        self.targets = []
        for _ in range(images):
            corner = torch.rand(num_gts, 2, generator=g) * torch.tensor([width, height]) * 0.9
            extent = 16 + torch.rand(num_gts, 2, generator=g) ** 2 * height / 2
            boxes = torch.cat((corner, torch.minimum(corner + extent, torch.tensor([width, height]))), 1).to(device)
            labels = torch.randint(0, CLASSES, (num_gts,), generator=g).to(device)
            self.targets.append({"boxes": boxes, "labels": labels})
        noise = torch.randn(images, len(points), 4, generator=g).to(device)
        boxes = anchors + noise * half * 0.3
        logits = torch.randn(images, len(points), CLASSES, generator=g).to(device) - 3
        objectness = torch.randn(images, len(points), generator=g).to(device)
        self.predictions = Predictions(logits, boxes, objectness)
        self.name = f"{len(points):,} x {num_gts} x {images}"

    def of_images(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """gts, labels, logits and boxes of each image."""
        for target, logits, boxes in zip(
            self.targets, self.predictions.cls_logits, self.predictions.boxes, strict=True
        ):
            yield target["boxes"], target["labels"], logits, boxes


def cases(settings: Settings) -> Iterator[Case]:
    for size in SIZES[:1] if settings.quick else SIZES:
        batch = Inputs(*size, settings.device)
        a, p, s = batch.anchors, batch.points, batch.strides
        yield hard(batch, "ATSS", ATSSAssigner(), a, lambda g, _labels, _logits, _boxes, a=a: peers.atss(a, g))
        yield hard(
            batch, "TaskAligned", TaskAlignedAssigner(first_label=0), a, lambda *i, a=a: peers.task_aligned(a, *i)
        )
        yield hard(batch, "SimOTA", SimOTAAssigner(first_label=0), p, lambda *i, p=p, s=s: peers.sim_ota(p, s, *i))
        yield hard(batch, "PAA", PAAAssigner(first_label=0), a, lambda *i, a=a: peers.paa(a, *i))
        mal = MALAssigner(first_label=0, progress=PROGRESS)
        # anchors of one size that contain a gt would have equal IoUs, and a bag could take any of them
        g = torch.Generator().manual_seed(1)
        apart = [level + torch.rand(level.shape, generator=g).to(level.device) for level in a]
        yield hard(batch, "MAL", mal, apart, lambda *i, a=apart: peers.mal(a, *i, PROGRESS))
        yield auto_assign(batch)


def hard(
    batch: Inputs,
    name: str,
    assigner: Callable[..., Assignment],
    priors: list[Tensor],
    peer: Callable[..., Tensor],
) -> Case:
    def ours() -> Assignment:
        return assigner(priors, batch.targets, batch.predictions)

    def theirs() -> list[Tensor]:
        return [peer(*image) for image in batch.of_images()]

    def check() -> None:
        found, offset, wanted = ours(), 0, []
        for part, target in zip(theirs(), batch.targets, strict=True):
            wanted.append(torch.where(part >= 0, part + offset, -1))
            offset += len(target["boxes"])
        gt = torch.where(found.labels == 1, found.candidate_gt, -1)
        wrong = (gt != torch.cat(wanted)).sum().item()
        if wrong > 4:  # near-ties that round to the other side
            raise AssertionError(f"{name}: {wrong} of {int((gt >= 0).sum())} positives differ from the peer's")

    return Case(f"{name}, {batch.name}", ours, {"torch, matrices": theirs}, check)


def auto_assign(batch: Inputs) -> Case:
    criterion = AutoAssignCriterion(CLASSES, first_label=0).to(batch.strides.device)
    constants = batch.predictions
    images = [(target["boxes"], target["labels"]) for target in batch.targets]
    points = torch.cat(batch.points)

    def step(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        leaves = [
            x.detach().requires_grad_()
            for x in (constants.cls_logits, constants.objectness_logits, constants.boxes)
            if x is not None
        ]
        total = loss(*leaves)
        return total, *torch.autograd.grad(total, [*leaves, *criterion.parameters()])

    def ours() -> tuple[Tensor, ...]:
        return step(
            lambda logits, objectness, boxes: sum(
                criterion(batch.points, batch.targets, Predictions(logits, boxes, objectness)).values()
            )
        )

    def theirs() -> tuple[Tensor, ...]:
        return step(
            lambda logits, objectness, boxes: peers.auto_assign(
                criterion, points, batch.strides, images, logits, objectness, boxes
            )
        )

    def check() -> None:
        for found, wanted in zip(ours(), theirs(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)

    return Case(f"AutoAssign, {batch.name}", ours, {"torch, matrices": theirs}, check)
