"""batched_iou_nms against rescored NMS of the same boxes: what the clusters cost."""

from __future__ import annotations

from collections.abc import Iterator

from _harness import Case, Settings
from bm_rescored_nms import IOU, SCORE, SIZES, inputs

from mlc_ext import batched_iou_nms, batched_rescored_nms


def cases(settings: Settings) -> Iterator[Case]:
    for batch, n, classes in SIZES[:2] if settings.quick else SIZES:
        yield case(batch, n, classes, settings)


def case(batch: int, n: int, classes: int | None, settings: Settings) -> Case:
    tensors = inputs(batch, n, classes, settings.device)
    name = f"{batch} x {n:,}, " + ("class-agnostic" if classes is None else f"{classes} classes")
    return Case(
        name,
        lambda: batched_iou_nms(*tensors, IOU, score_threshold=SCORE),
        {"rescored_nms": lambda: batched_rescored_nms(*tensors, IOU, score_threshold=SCORE)},
    )
