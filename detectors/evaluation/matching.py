"""Detections and objects of a data set matched as COCO matches them, and how far what is left overlaps.

Boxes are compared by pycocotools' IoU; crowd objects as COCO does: detections on them are ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask


class ImagePairs(NamedTuple):
    """The D detections of an image, the best first, its G objects and its crowd objects."""

    rows: np.ndarray
    """[D] numbers of the detections in the results."""
    scores: np.ndarray
    """[D]."""
    labels: np.ndarray
    """[D] numbers of the categories, from 0 in the order of their ids."""
    objects: np.ndarray
    """[G] numbers of the objects among all that are not crowd."""
    object_labels: np.ndarray
    """[G]."""
    ious: np.ndarray
    """[D, G]."""
    on_crowd: np.ndarray
    """[D] the largest share of the detection that lies in a crowd object of its class."""


def image_pairs(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], *, most: int = 100, score_threshold: float = -np.inf
) -> Iterator[ImagePairs]:
    """The images in order of their ids; those with neither detections nor objects too.

    Args:
        truth: COCO detection data. results: detections in COCO's results format.
        most: detections of an image and class that count, as in COCO's AP.
        score_threshold: detections of this score or less do not count.
    """
    number = {category: k for k, category in enumerate(sorted(entry["id"] for entry in truth["categories"]))}
    objects = counted_objects(truth)
    crowd = [entry for entry in truth["annotations"] if entry["iscrowd"]]
    own, own_crowd, found = (_by_image(entries) for entries in (objects, crowd, results))
    object_labels, crowd_labels = ([number[entry["category_id"]] for entry in part] for part in (objects, crowd))
    labels = np.array([number[row["category_id"]] for row in results], dtype=np.int64)
    scores = np.array([row["score"] for row in results], dtype=np.float64)
    for image_id in sorted(entry["id"] for entry in truth["images"]):
        rows = np.array(found.get(image_id, ()), dtype=np.int64)
        rows = rows[scores[rows] > score_threshold]
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        rows = rows[_ranks(labels[rows]) < most]
        gts, areas = own.get(image_id, []), own_crowd.get(image_id, [])
        boxes = [results[k]["bbox"] for k in rows]
        inside = _ious(boxes, [crowd[k]["bbox"] for k in areas], crowd=True)
        same = labels[rows][:, None] == np.array([crowd_labels[k] for k in areas], dtype=np.int64)
        yield ImagePairs(
            rows,
            scores[rows],
            labels[rows],
            np.array(gts, dtype=np.int64),
            np.array([object_labels[k] for k in gts], dtype=np.int64),
            _ious(boxes, [objects[k]["bbox"] for k in gts], crowd=False),
            np.where(same, inside, 0).max(1, initial=0),
        )


def class_names(truth: Mapping[str, Any]) -> list[str]:
    """The names of the categories in the order of their ids; with the id where several have the same name."""
    categories = sorted(truth["categories"], key=lambda entry: entry["id"])
    count = Counter(entry["name"] for entry in categories)
    return [
        entry["name"] if count[entry["name"]] == 1 else f"{entry['name']} (id {entry['id']})" for entry in categories
    ]


def counted_objects(truth: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The annotations that are not crowd: the G objects of :class:`ImagePairs` and :class:`Matched`."""
    return [entry for entry in truth["annotations"] if not entry["iscrowd"]]


def _by_image(entries: Sequence[Mapping[str, Any]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for k, entry in enumerate(entries):
        found.setdefault(entry["image_id"], []).append(k)
    return found


def _ranks(labels: np.ndarray) -> np.ndarray:
    """[D] -> how many earlier entries have the same label."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return ranks


def _ious(boxes: list, others: list, *, crowd: bool) -> np.ndarray:
    if not boxes or not others:
        return np.zeros((len(boxes), len(others)))
    return mask.iou(np.array(boxes, dtype=np.float64), np.array(others, dtype=np.float64), [crowd] * len(others))


def match_image(pairs: ImagePairs, iou: float) -> np.ndarray:
    """[D] index of the object that COCO matches with each detection, -1 for none.

    In the order of the scores, each takes the free object of its class with the largest IoU, which must be at least
    ``iou``; of equal ones the last.
    """
    same = np.where(pairs.labels[:, None] == pairs.object_labels, pairs.ious, 0.0)
    matched = np.full(len(pairs.rows), -1)
    for k in np.flatnonzero(same.max(1, initial=0) >= iou):
        best = same.shape[1] - 1 - same[k, ::-1].argmax()
        if same[k, best] >= iou:
            matched[k] = best
            same[:, best] = 0
    return matched


@dataclass
class Matched:
    """The D detections of a data set, by image and falling score, and its G objects without crowd.

    Detections that COCO ignores, unmatched ones on crowd, are left out.
    """

    rows: np.ndarray
    """[D] numbers of the detections in the results."""
    scores: np.ndarray
    """[D]."""
    labels: np.ndarray
    """[D] numbers of the categories, from 0 in the order of their ids."""
    objects: np.ndarray
    """[D] the matched object, -1 for none."""
    ious: np.ndarray
    """[D] the IoU with it, 0 for none."""
    same_iou: np.ndarray
    """[D] the largest IoU with an object of the detection's class, 0 without one."""
    same_object: np.ndarray
    """[D] that object, of several the first; -1 without one."""
    other_iou: np.ndarray
    """[D] as ``same_iou``, with objects of other classes."""
    other_object: np.ndarray
    """[D]."""
    object_labels: np.ndarray
    """[G]."""
    num_classes: int


def match(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], *, iou: float = 0.5, most: int = 100
) -> Matched:
    """Matches detections in COCO's results format with COCO detection data; ``most`` as for :func:`image_pairs`."""
    columns: list[list[np.ndarray]] = [[] for _ in range(9)]
    object_labels = np.zeros(len(counted_objects(truth)), dtype=np.int64)
    for pairs in image_pairs(truth, results, most=most):
        object_labels[pairs.objects] = pairs.object_labels
        matched = match_image(pairs, iou)
        kept = (matched >= 0) | (pairs.on_crowd < iou)
        is_same = pairs.labels[:, None] == pairs.object_labels
        nearest = [_nearest(np.where(at, pairs.ious, 0.0), pairs.objects) for at in (is_same, ~is_same)]
        at = np.append(pairs.objects, -1)[matched]
        own = np.column_stack([pairs.ious, np.zeros(len(matched))])[np.arange(len(matched)), matched]
        found = (pairs.rows, pairs.scores, pairs.labels, at, own, *nearest[0], *nearest[1])
        for column, values in zip(columns, found, strict=True):
            column.append(values[kept])
    joined = [np.concatenate(column) for column in columns]
    return Matched(*joined, object_labels=object_labels, num_classes=len(truth["categories"]))


def _nearest(ious: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(largest IoU, its object or -1) of each detection."""
    if not ious.size:
        return np.zeros(len(ious)), np.full(len(ious), -1)
    best = ious.max(1)
    return best, np.where(best > 0, objects[ious.argmax(1)], -1)
