"""Who trains which task, object by object: the baseline's labels and the mutual ones, for the page's viewer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..data.coco.dataset import CocoDetection
from ..models.dense_detector import DenseDetector
from ..visualization.views import View, look
from .embedded_images import Pictures, jpeg_uri

MAX_OBJECTS = 8
"""Objects of an image, the largest ones."""

MAX_CANDIDATES = 40_000
"""Candidates of a run in the page: objects beyond are left out, which bounds its size."""

STATIC_IMAGES = 2
"""Images of a run that are drawn once for readers without JavaScript."""

BINS = 20
"""Of the histograms."""


def label_data(
    model: DenseDetector, dataset: CocoDetection, names: Sequence[str], count: int, pictures: Pictures
) -> dict[str, Any]:
    """What the viewer shows of a run: ``images``, the first ``count`` with objects, and their notes.

    An image is ``name``, ``picture`` (its number in ``pictures``), ``size`` [W, H] in the detector's pixels, how many
    objects are ``left_out``, and ``objects``: each with ``name``, ``box``, the candidates' ``x`` and ``y``, ``labels``
    by way (baseline, mutual) and task (cls, loc) - a character for every candidate: + positive, - negative, . ignored
    -, ``tau`` of the IoUs and of the scores, ``hist`` of both, ``score_max``, the scores' last edge, and whether a task
    ``fell_back`` because the candidates' values cannot be split.

    ``static``: pictures of the first images with all of their objects, (title, data URI).
    """
    images, static, room = [], [], MAX_CANDIDATES
    shown_names = None if model.class_agnostic else names
    for index, image, target in _images_with_objects(dataset, count):
        name = dataset.image_path(index).name
        baseline, mutual = (look(model, [image], [target], mutual=way)[0] for way in (False, True))
        objects = []
        sizes = (mutual.boxes[:, 2:] - mutual.boxes[:, :2]).prod(1)
        order = sizes.argsort(descending=True, stable=True).tolist()
        for k in order[:MAX_OBJECTS]:
            own = mutual.gt == k
            if (candidates := int(own.sum())) > room:
                continue
            room -= candidates
            label = 1 if model.class_agnostic else int(mutual.labels[k])
            objects.append({"name": names[label - 1], **_object(baseline, mutual, k, own)})
        images.append(
            {
                "name": name,
                "picture": pictures.add(dataset.load_image(index)),
                "size": [image.shape[2], image.shape[1]],
                "objects": objects,
                "left_out": len(order) - len(objects),
            }
        )
        if len(static) < 2 * STATIC_IMAGES:
            for way, view in (("baseline", baseline), ("mutual", mutual)):
                static.append((f"{name}, {way} labels", jpeg_uri(view.picture(shown_names), 960, 70)))
    return {"images": images, "degenerate": model.mlc.degenerate, "static": static}


def _object(baseline: View, mutual: View, k: int, own: Tensor) -> dict[str, Any]:
    ious, scores = mutual.ious[own].cpu(), mutual.scores[own].cpu()
    score_tau, iou_tau = (float(tau[k]) for tau in mutual.thresholds)
    score_max = float(scores.max()) if len(scores) else 1.0
    return {
        "box": [round(value, 1) for value in mutual.boxes[k].tolist()],
        "x": [_short(value) for value in mutual.centers[own, 0].tolist()],
        "y": [_short(value) for value in mutual.centers[own, 1].tolist()],
        "labels": {way: _labels(view, own) for way, view in (("baseline", baseline), ("mutual", mutual))},
        "tau": {"iou": _or_none(iou_tau), "score": _or_none(score_tau)},
        "hist": {
            "iou": np.histogram(ious.numpy(), BINS, (0, 1))[0].tolist(),
            "score": np.histogram(scores.numpy(), BINS, (0, score_max or 1.0))[0].tolist(),
        },
        "score_max": score_max or 1.0,
        "fell_back": {"cls": not bool((ious > iou_tau).any()), "loc": not bool((scores > score_tau).any())},
    }


def _labels(view: View, own: Tensor) -> dict[str, str]:
    ignored = ~(view.cls_positive | view.cls_negative)
    return {
        "cls": "".join("+" if p else "." if i else "-" for p, i in
                       zip(view.cls_positive[own].tolist(), ignored[own].tolist(), strict=True)),
        "loc": "".join("+" if p else "-" for p in view.loc_positive[own].tolist()),
    }  # fmt: skip


def _images_with_objects(dataset: CocoDetection, count: int) -> Iterator[tuple[int, Tensor, dict]]:
    """(index, image and target as the detector gets them)."""
    for index, image_id in enumerate(dataset.image_ids):
        if count == 0:
            return
        if not dataset.target(index)["iscrowd"].all():
            image, target = dataset[index]
            if target["image_id"] == image_id:  # else it stands in for a broken one
                count -= 1
                yield index, image, target


def _short(value: float) -> float | int:
    value = round(value, 1)
    return int(value) if value == int(value) else value


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
