"""PredictionWriter: predictions before NMS in a file, for the command ``mlc-ext divergence``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ._dtypes import at_least_float32
from .ops import box_iou

__all__ = ["PredictionWriter"]


class PredictionWriter:
    """Collects a detector's predictions before NMS; :meth:`save` writes them for ``mlc-ext divergence``.

    A row is a prediction and a class. Rows are kept if the class score is above ``score_threshold``, or if the box
    overlaps an object of the class: the others change neither the divergence nor AP.

    Example::

        writer = PredictionWriter(first_label=0)
        for image_id, image, target in data:
            writer.update(image_id, raw_predictions(model, [image])[0], target)
        writer.save("predictions.npz")

    Args:
        categories: the COCO category id of each label; None: the label itself, as in torchvision.
        first_label: the label of score column 0, as in :class:`mlc_ext.Divergence`.
        score_threshold: exclusive; below it, predictions that overlap no object of their class are left out.
    """

    def __init__(
        self, categories: Mapping[int, int] | None = None, *, first_label: int = 1, score_threshold: float = 0.05
    ) -> None:
        self.categories = categories
        self.first_label = first_label
        self.score_threshold = score_threshold
        self._rows: list[dict[str, np.ndarray[Any, Any]]] = []

    @torch.no_grad()
    def update(self, image_id: int, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Adds one image.

        Args:
            image_id: as in the annotation file.
            predictions: as in :meth:`mlc_ext.Divergence.update`, dense or sparse, in the pixels of the annotation file.
            targets: ``boxes`` [K, 4] xyxy in the same pixels and ``labels`` [K].

        Raises:
            ValueError: shapes disagree. KeyError: a label is not in ``categories``.
        """
        boxes, scores = (at_least_float32(predictions[name].detach()) for name in ("boxes", "scores"))
        raw_scores = predictions.get("raw_scores")
        raw_scores = scores if raw_scores is None else at_least_float32(raw_scores.detach())
        labels = predictions.get("labels")
        if len(scores) != len(boxes) or raw_scores.shape != scores.shape:
            shapes = f"{list(boxes.shape)}, {list(scores.shape)} and {list(raw_scores.shape)}"
            raise ValueError(f"PredictionWriter: boxes, scores and raw_scores disagree: {shapes}")
        gt_boxes, gt_labels = targets["boxes"].to(boxes), targets["labels"].to(boxes.device)
        kept = raw_scores > self.score_threshold
        for label in sorted(set(gt_labels.tolist())):
            overlaps = box_iou(boxes, gt_boxes[gt_labels == label]).amax(1) > 0
            if labels is not None:
                kept |= overlaps & (labels.to(boxes.device) == label)
            elif 0 <= label - self.first_label < scores.shape[1]:
                kept[:, label - self.first_label] |= overlaps
        row, *column = kept.nonzero().unbind(1)
        found = labels.to(boxes.device)[row] if labels is not None else column[0] + self.first_label
        names = found.tolist() if self.categories is None else [self.categories[label] for label in found.tolist()]
        self._rows.append(
            {
                "image_ids": np.full(len(row), image_id, dtype=np.int64),
                "category_ids": np.array(names, dtype=np.int64),
                "boxes": boxes[row].float().cpu().numpy(),
                "scores": scores[kept].float().cpu().numpy(),
                "raw_scores": raw_scores[kept].float().cpu().numpy(),
            }
        )

    def merge(self, other: PredictionWriter) -> PredictionWriter:
        """Adds the images of another writer, as of another rank.

        Returns:
            self.
        """
        self._rows = [*self._rows, *other._rows]
        return self

    def save(self, file: str | os.PathLike[str] | BinaryIO) -> None:
        """Writes NumPy's .npz format to a path, or to an open file.

        ``image_ids`` and ``category_ids`` [M] int64, ``boxes`` [M, 4] xyxy, ``scores`` and ``raw_scores`` [M] float32.

        Raises:
            OSError: the file cannot be written. ValueError: no image was added.
        """
        if not self._rows:
            raise ValueError("PredictionWriter: no image was added")
        columns = {name: np.concatenate([rows[name] for rows in self._rows]) for name in self._rows[0]}
        if isinstance(file, (str, os.PathLike)):
            with open(file, "wb") as opened:  # np.savez would add .npz to the name
                np.savez_compressed(opened, allow_pickle=False, **columns)
        else:
            np.savez_compressed(file, allow_pickle=False, **columns)
