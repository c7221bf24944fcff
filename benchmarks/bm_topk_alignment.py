"""topk_alignment against the matrix: IoUs, scores of the gts' classes, their product, and torch.topk, image by image.

Predicted before the first measurement (20k priors x 50 gts x 2 images, 1 thread): 1.5 ms; measured 1.6, of which 0.8
without the logits, whose cache misses are the rest.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _box_peers import torch_iou
from _harness import Case, Settings
from bm_assigners import Inputs
from torch import Tensor

from mlc_ext import topk_alignment

# image height and width, gts of an image, images
SIZES = [(256, 416, 8, 2), (800, 1216, 50, 2), (800, 1216, 20, 16)]
K, ALPHA, BETA = 13, 1.0, 6.0
PAIR_OPERATIONS = 12
"""The sides of the intersection, areas, comparison."""


def by_matrix(boxes: Tensor, gts: Tensor, logits: Tensor, columns: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(metric, prior) of one image, each [G, k]."""
    metric = logits[:, columns].T.sigmoid() * torch_iou(gts[:, None], boxes[None]).pow(BETA)
    return tuple(metric.topk(k, dim=1))


def cases(settings: Settings) -> Iterator[Case]:
    for size in SIZES[:1] if settings.quick else SIZES:
        yield case(*size, settings)


def case(height: int, width: int, num_gts: int, images: int, settings: Settings) -> Case:
    batch = Inputs(height, width, num_gts, images, settings.device)
    logits, boxes = batch.predictions.cls_logits, batch.predictions.boxes
    gts, columns = (torch.cat([target[key] for target in batch.targets]) for key in ("boxes", "labels"))
    image = torch.arange(images, device=gts.device).repeat_interleave(num_gts)

    def ours():
        return topk_alignment(boxes, gts, image, K, logits=logits, columns=columns, alpha=ALPHA, beta=BETA)

    def peer() -> list[tuple[Tensor, Tensor]]:
        return [by_matrix(b, g, x, c, K) for g, c, x, b in batch.of_images()]

    def check() -> None:
        metric = torch.cat([found for found, _ in peer()])
        torch.testing.assert_close(ours().metric, metric, rtol=1e-4, atol=1e-9)

    pairs = boxes.shape[1] * num_gts * images
    # boxes and gts are read, metrics and indices written; of the logits a few
    moved = 16 * (boxes.shape[0] * boxes.shape[1] + len(gts)) + 12 * K * len(gts)
    return Case(batch.name, ours, {"torch, matrix": peer}, check, moved_bytes=moved,
                lane_operations=PAIR_OPERATIONS * pairs)  # fmt: skip
