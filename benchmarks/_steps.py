"""Whole training steps to measure: random batches, presets without their files, a criterion alone, turns."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mlc_ext.detectors.config.overrides import override  # noqa: E402
from mlc_ext.detectors.config.settings import Config  # noqa: E402
from mlc_ext.detectors.models.dense_detector import DenseDetector  # noqa: E402
from mlc_ext.detectors.models.targets import prepare_targets  # noqa: E402

NUM_CLASSES = 80
BOXES_PER_IMAGE = 7
"""COCO train2017's mean is 7.3."""


def add_batch_arguments(parser: argparse.ArgumentParser, *, short_side: int = 384, batch_size: int = 2) -> None:
    parser.add_argument("--short-side", type=int, default=short_side, help="of the images (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=batch_size, help="(%(default)s)")


def image_size(short_side: int) -> tuple[int, int]:
    """(height, width) of landscape images that need no padding to multiples of 32."""
    return short_side, short_side * 5 // 3 // 32 * 32


def bare(config: Config) -> Config:
    """Without pretrained weights and loader processes; statistics and stages are frozen as with weights."""
    frozen = 2 if config.model.frozen_stages is None else config.model.frozen_stages
    for key, value in (("model.weights", None), ("model.norm", "frozen_bn"), ("model.frozen_stages", frozen),
                       ("data.workers", 0)):  # fmt: skip
        config = override(config, key, value)
    return config


def batch(height: int, width: int, size: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Random images; boxes of COCO's number and spread of sizes."""
    g = torch.Generator().manual_seed(0)
    images, targets = [], []
    for _ in range(size):
        images.append(torch.rand(3, height, width, generator=g))
        extent = torch.tensor([width, height]) * torch.rand(BOXES_PER_IMAGE, 2, generator=g).square() * 0.8 + 4
        corner = torch.rand(BOXES_PER_IMAGE, 2, generator=g) * (torch.tensor([width, height]) - extent)
        labels = torch.randint(1, NUM_CLASSES + 1, (BOXES_PER_IMAGE,), generator=g)
        targets.append({"boxes": torch.cat([corner, corner + extent], 1), "labels": labels})
    return images, targets


def criterion(model: DenseDetector, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Callable[[], None]:
    """The losses of fixed outputs, and their gradients with respect to these."""
    with torch.no_grad():
        outputs, sizes, _ = model.head_outputs(images)
    prepared = prepare_targets(targets, len(images), outputs["cls_logits"].device)

    def run() -> None:
        leaves = {key: value.detach().requires_grad_() for key, value in outputs.items()}
        sum(model.losses(leaves, sizes, prepared).values()).backward()

    return run


@dataclass
class Turns:
    """Seconds of every counted turn of a contestant."""

    seconds: list[float] = field(default_factory=list)

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def take_turns(
    contestants: dict[str, Callable[[], object]], rounds: int, synchronize: Callable[[], None] = lambda: None
) -> dict[str, Turns]:
    """``rounds`` turns of each, taken by all in order so that a busy moment hits all alike, after one that does not
    count."""
    turns = {name: Turns() for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            synchronize()
            start = time.perf_counter()
            run()
            synchronize()
            if turn > 0:
                turns[name].seconds.append(time.perf_counter() - start)
    return turns
