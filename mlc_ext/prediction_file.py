"""PredictionWriter: predictions before NMS in a file, for the command ``mlc-ext divergence``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ._prediction_inputs import read_gts, read_predictions
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
            targets: as in :meth:`mlc_ext.Divergence.update`, in the same pixels.

        Raises:
            TypeError, ValueError: as in :meth:`mlc_ext.Divergence.update`. KeyError: a label is not in ``categories``.
        """
        boxes, scores, raw_scores, labels = read_predictions("PredictionWriter", predictions)
        allowed = None if labels is not None else range(self.first_label, self.first_label + scores.shape[1])
        gt_boxes, gt_labels = read_gts("PredictionWriter", targets, boxes, allowed)
        kept = raw_scores > self.score_threshold
        for label in sorted(set(gt_labels.tolist())):
            overlaps = box_iou(boxes, gt_boxes[gt_labels == label]).amax(1) > 0
            if labels is not None:
                kept |= overlaps & (labels == label)
            else:
                kept[:, label - self.first_label] |= overlaps
        row, *column = kept.nonzero().unbind(1)
        found = labels[row] if labels is not None else column[0] + self.first_label
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
        columns: dict[str, Any] = {name: np.concatenate([rows[name] for rows in self._rows]) for name in self._rows[0]}
        # a path would get the ending .npz
        with open(file, "wb") if isinstance(file, (str, os.PathLike)) else nullcontext(file) as opened:
            np.savez_compressed(opened, **columns)
