"""batched_iou_nms against rescored NMS of the same boxes: what the clusters cost.

Without a limit both compare the same candidates. With one, rescored NMS stops as soon as it is reached; IoU-NMS cannot,
because a cluster's score is known only when every candidate has joined one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _harness import Case, Settings
from bm_rescored_nms import IOU, SCORE, SIZES, inputs

from mlc_ext import batched_iou_nms, batched_rescored_nms, reference

LIMIT = 100
CHECKED = 500
"""Boxes of the first image that are compared with the reference, which looks at every pair."""


def cases(settings: Settings) -> Iterator[Case]:
    for batch, n, classes in SIZES[:2] if settings.quick else SIZES:
        for limit in (None, LIMIT):
            yield case(batch, n, classes, settings, limit)


def case(batch: int, n: int, classes: int | None, settings: Settings, limit: int | None = None) -> Case:
    tensors = inputs(batch, n, classes, settings.device)
    options = {"score_threshold": SCORE, "max_detections": limit}
    name = f"{batch} x {n:,}, " + ("class-agnostic" if classes is None else f"{classes} classes")

    def check() -> None:
        first = [None if t is None else t[:1, :CHECKED] for t in tensors]
        ours = batched_iou_nms(*first, IOU, **options)
        alone = [None if t is None else t[0].cpu() for t in first]
        keep, kept_scores = reference.iou_nms(*alone, IOU, **options)
        kept = [t[0, : ours.counts.item()].cpu() for t in (ours.keep, ours.scores)]
        if not (torch.equal(kept[0], keep) and torch.equal(kept[1], kept_scores)):
            raise AssertionError(f"the reference keeps {len(keep)} boxes, batched_iou_nms {len(kept[0])}, or others")

    return Case(
        name if limit is None else f"{name}, best {limit}",
        lambda: batched_iou_nms(*tensors, IOU, **options),
        {"rescored_nms": lambda: batched_rescored_nms(*tensors, IOU, **options)},
        check,
    )
