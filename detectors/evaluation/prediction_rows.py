"""Predictions of any detector from a file: COCO results, or an archive of PredictionWriter."""

from __future__ import annotations

import dataclasses
import json
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlc_ext import box_iou

from ..data.coco.ground_truth import GroundTruth
from ..data.coco.values import as_id
from ..data.images.files import did_you_mean

_COLUMNS = ("image_ids", "category_ids", "boxes", "scores", "raw_scores")
_ARCHIVE_ERRORS = (KeyError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""Of a zip file that is damaged, encrypted or has other contents."""
_NEAR, _MOST_NEAR, _LOOKED_AT = 0.9, 0.05, 200


@dataclass
class PredictionRows:
    """M predictions, each of one class."""

    image_ids: np.ndarray
    """[M] int64."""
    category_ids: np.ndarray
    """[M] int64."""
    boxes: np.ndarray
    """[M, 4] float32 xyxy."""
    scores: np.ndarray
    """[M] float32, what the detector ranks by."""
    raw_scores: np.ndarray
    """[M] float32, the class scores."""
    before_nms: bool
    left_out: int = 0
    """Predictions that :meth:`matched` has left out."""

    def __len__(self) -> int:
        return len(self.scores)

    def of_images(self, truth: GroundTruth) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """(index, predictions) of each image of the annotation file: ``boxes``, ``scores``, ``raw_scores`` and
        ``labels``, within an image in file order."""
        order = np.argsort(self.image_ids, kind="stable")
        ids = self.image_ids[order]
        labels = _mapped(self.category_ids, truth.classes.category_to_label)
        for index, image_id in enumerate(truth.image_ids):
            rows = order[np.searchsorted(ids, image_id, "left") : np.searchsorted(ids, image_id, "right")]
            yield (
                index,
                {
                    "boxes": torch.from_numpy(self.boxes[rows]),
                    "scores": torch.from_numpy(self.scores[rows]),
                    "raw_scores": torch.from_numpy(self.raw_scores[rows]),
                    "labels": torch.from_numpy(labels[rows]),
                },
            )

    def matched(self, truth: GroundTruth, path: Path, annotations: Path) -> PredictionRows:
        """Those on the images of the annotation file. Predictions on images that it has, but that cannot be used, are
        left out and counted.

        ValueError, naming both files, for images or categories that the annotation file does not have.
        """
        categories = list(truth.label_to_category.values())
        for what, ids, known, shown in (
            ("an image", self.image_ids, [*truth.image_ids, *truth.unusable_images], truth.image_ids),
            ("a category", self.category_ids, categories, categories),
        ):
            unknown = ~np.isin(ids, known)
            if unknown.any():
                raise ValueError(
                    f"{path}: {unknown.sum()} of {len(ids)} predictions have {what} id that {annotations} does not "
                    f"have, such as {ids[unknown][0]}; it has {len(known)} such as {shown[0]}"
                )
        kept = np.isin(self.image_ids, truth.image_ids)
        columns = {name: getattr(self, name)[kept] for name in _COLUMNS}
        return dataclasses.replace(self, **columns, left_out=int((~kept).sum()))

    def look_unsuppressed(self) -> bool:
        """Whether many of the first images' predictions overlap a better one of their class almost completely: NMS
        would have removed them."""
        near = total = 0
        for image_id in np.unique(self.image_ids)[:_LOOKED_AT]:
            rows = np.flatnonzero(self.image_ids == image_id)[:1000]
            boxes, category = torch.from_numpy(self.boxes[rows]), self.category_ids[rows]
            same = torch.from_numpy(category[:, None] == category)
            near += int((((box_iou(boxes, boxes) > _NEAR) & same).sum(1) > 1).sum())
            total += len(rows)
        return near > _MOST_NEAR * total


def _mapped(ids: np.ndarray, labels: dict[int, int]) -> np.ndarray:
    found, inverse = np.unique(ids, return_inverse=True)
    return np.array([labels[int(i)] for i in found], dtype=np.int64)[inverse]


def read_predictions(path: Path, *, class_agnostic: bool = False, before_nms: bool = False) -> PredictionRows:
    """The predictions of a file.

    Args:
        path: COCO's results format (.json: a list of image_id, category_id, bbox xywh, score), or an archive of
            :class:`mlc_ext.PredictionWriter` (.npz).
        class_agnostic: set every category id to 1.
        before_nms: of a .json: NMS has not been applied. An archive is before NMS.

    Raises:
        FileNotFoundError: no such file. ValueError: it has another format, or a value that cannot be used.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}{did_you_mean(path)}")
    if zipfile.is_zipfile(path):
        rows = _read_archive(path)
    else:
        rows = _read_results(path, before_nms)
    for name in _COLUMNS[2:]:
        values = getattr(rows, name)
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: {name} must be finite; {(~np.isfinite(values)).sum()} values are not")
    turned = (rows.boxes[:, 2:] < rows.boxes[:, :2]).any(1)
    if turned.any():  # with a negative area every IoU is meaningless, and most such files have another form of boxes
        raise ValueError(
            f"{path}: {turned.sum()} of {len(rows)} boxes have a negative width or height, such as that of entry "
            f"{turned.argmax()}"
        )
    if class_agnostic:
        rows.category_ids = np.ones_like(rows.category_ids)
    return rows


def _read_archive(path: Path) -> PredictionRows:
    try:
        with np.load(path, allow_pickle=False) as archive:
            columns = {name: np.asarray(archive[name]) for name in _COLUMNS}
    except _ARCHIVE_ERRORS as error:
        raise ValueError(f"{path} is not an archive of mlc_ext.PredictionWriter: {error}") from error
    count = columns["scores"].size
    for name, values in columns.items():
        shape, kinds = ((count, 4) if name == "boxes" else (count,)), ("iu" if name in _COLUMNS[:2] else "iuf")
        if values.shape != shape or values.dtype.kind not in kinds:
            found = f"{name} of shape {list(values.shape)} and type {values.dtype}"
            raise ValueError(f"{path} is not an archive of mlc_ext.PredictionWriter: it has {found}")
    ids = {name: columns.pop(name).astype(np.int64) for name in _COLUMNS[:2]}
    return PredictionRows(**ids, **{name: _float32(x) for name, x in columns.items()}, before_nms=True)


def _float32(values: np.ndarray) -> np.ndarray:
    """Values beyond float32 become infinite, which :func:`read_predictions` refuses."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _read_results(path: Path, before_nms: bool) -> PredictionRows:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is neither JSON nor a .npz archive: {error}") from error
    if isinstance(content, dict) and "annotations" in content:
        raise ValueError(f"{path} is an annotation file: the arguments are RESULTS, then ANNOTATIONS")
    if not isinstance(content, list):
        raise ValueError(f"{path} is not in COCO's results format: a {type(content).__name__}, not a list")
    parsed = [_parse(entry, k, path) for k, entry in enumerate(content)]
    image_ids, category_ids, boxes, scores = zip(*parsed, strict=True) if parsed else ((), (), (), ())
    corners = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused
        corners[:, 2:] += corners[:, :2]
    values = _float32(np.array(scores, dtype=np.float64))
    return PredictionRows(
        np.array(image_ids, dtype=np.int64),
        np.array(category_ids, dtype=np.int64),
        _float32(corners),
        values,
        values,
        before_nms,
    )


def _parse(entry: Any, k: int, path: Path) -> tuple[int, int, list[float], float]:
    missing = [name for name in ("image_id", "category_id", "bbox", "score") if name not in entry] if isinstance(
        entry, dict
    ) else ["object"]  # fmt: skip
    if missing:
        raise ValueError(f"{path}: entry {k} has no {', '.join(missing)}")
    image_id, category_id = as_id(entry["image_id"]), as_id(entry["category_id"])
    box, score = entry["bbox"], entry["score"]
    if image_id is None or category_id is None:
        raise ValueError(f"{path}: entry {k} has ids {entry['image_id']!r} and {entry['category_id']!r}, not integers")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in (*box, score)):
        raise ValueError(f"{path}: entry {k} has bbox {box!r:.60} and score {score!r:.20}, not numbers")
    return image_id, category_id, [_as_float(value) for value in box], _as_float(score)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond float64
        return math.inf
