"""batched_iou_nms against rescored NMS of the same boxes: what the clusters cost.

Without a limit both compare the same candidates. With one, rescored NMS stops as soon as it is reached; IoU-NMS cannot,
because a cluster's score is known only when every candidate has joined one.
"""

from __future__ import annotations

from collections.abc import Iterator

from _harness import Case, Settings
from bm_rescored_nms import IOU, SCORE, SIZES, inputs

from mlc_ext import batched_iou_nms, batched_rescored_nms

LIMIT = 100


def cases(settings: Settings) -> Iterator[Case]:
    for batch, n, classes in SIZES[:2] if settings.quick else SIZES:
        for limit in (None, LIMIT):
            yield case(batch, n, classes, settings, limit)


def case(batch: int, n: int, classes: int | None, settings: Settings, limit: int | None = None) -> Case:
    tensors = inputs(batch, n, classes, settings.device)
    options = {"score_threshold": SCORE, "max_detections": limit}
    name = f"{batch} x {n:,}, " + ("class-agnostic" if classes is None else f"{classes} classes")
    return Case(
        name if limit is None else f"{name}, best {limit}",
        lambda: batched_iou_nms(*tensors, IOU, **options),
        {"rescored_nms": lambda: batched_rescored_nms(*tensors, IOU, **options)},
    )
