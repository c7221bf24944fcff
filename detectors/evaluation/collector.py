"""The outputs of a detector on a data set, gathered by image and over all ranks, for COCO's evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import distributed
from .coco_evaluation import Backend


class Collector:
    """Gathers outputs by image and evaluates them with COCO's code.

    Args:
        ground_truth: COCO detection data.
        categories: category ids by label.
        most: detections of an image and class that count, as in COCO's AP; of an image, if classes are not
            distinguished.
        parameters: of COCO's evaluation.
        backend: of :class:`~mlc_ext.detectors.evaluation.coco_evaluation.Backend`.
    """

    def __init__(
        self,
        ground_truth: Mapping[str, Any],
        categories: Mapping[int, int],
        *,
        most: int,
        parameters: Mapping[str, Any],
        backend: str,
    ):
        self.most = most
        self.image_ids = sorted(entry["id"] for entry in ground_truth["images"])
        self._categories = dict(categories)
        self._parameters = {"imgIds": self.image_ids, **parameters}
        self._backend = Backend(backend)
        self._truth = self._backend.data(ground_truth)
        self._ids = set(self.image_ids)
        self._rows: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}  # boxes xyxy, scores, labels
        self._evaluation: Any = None  # of these outputs

    @property
    def truth(self) -> dict[str, Any]:
        """The ground truth in COCO's format, as it is evaluated against."""
        return self._truth.dataset

    def reset(self) -> None:
        """Forgets all outputs."""
        self._rows.clear()
        self._evaluation = None

    def update(self, image_ids: Sequence[int], outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Takes the outputs of some images; an image that was seen before counts no second time (its first
        output stays).

        Raises:
            ValueError: unknown image or label, shapes that do not agree, or a value that is not finite.
        """
        self._evaluation = None
        if len(image_ids) != len(outputs):
            raise ValueError(f"update got {len(image_ids)} image ids and {len(outputs)} outputs")
        for image_id, output in zip(image_ids, outputs, strict=True):
            image_id = int(image_id)
            if image_id not in self._ids:
                raise ValueError(f"image {image_id} is not among the images to evaluate")
            if image_id not in self._rows:
                self._rows[image_id] = self._check(image_id, output)

    def synchronize(self) -> None:
        """Brings the outputs of all ranks together on every rank (nothing to do outside
        torch.distributed)."""
        merged: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        for part in distributed.gather(self._rows):
            for image_id, row in part.items():
                merged.setdefault(image_id, row)
        self._rows, self._evaluation = merged, None

    def state_dict(self) -> dict[str, Tensor]:
        """The outputs so far, as ``torch.save`` takes them: ``image_ids`` and ``counts`` [M], and of all images in
        that order ``boxes`` [N, 4], ``scores`` and ``labels`` [N]."""
        rows = list(self._rows.values())
        return {
            "image_ids": torch.tensor(list(self._rows), dtype=torch.int64),
            "counts": torch.tensor([len(scores) for _, scores, _ in rows], dtype=torch.int64),
            "boxes": torch.from_numpy(np.concatenate([np.zeros((0, 4)), *(boxes for boxes, _, _ in rows)])),
            "scores": torch.from_numpy(np.concatenate([np.zeros(0), *(scores for _, scores, _ in rows)])),
            "labels": torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *(labels for _, _, labels in rows)])),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replaces the outputs by those of :meth:`state_dict`; errors as of :meth:`update`."""
        self.reset()
        counts = state["counts"].tolist()
        parts = (state[name].split(counts) for name in ("boxes", "scores", "labels"))
        outputs = [dict(zip(("boxes", "scores", "labels"), part, strict=True)) for part in zip(*parts, strict=True)]
        self.update(state["image_ids"].tolist(), outputs)

    def results(self) -> list[dict[str, Any]]:
        """The outputs in COCO's results format, images in order: image_id, category_id (proposals: 1), bbox (x, y,
        width, height), score."""
        rows = []
        for image_id in self.image_ids:
            if image_id not in self._rows:
                continue
            boxes, scores, labels = self._rows[image_id]
            xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
            for box, score, label in zip(xywh.tolist(), scores.tolist(), labels.tolist(), strict=True):
                category = self._categories[int(label)]
                rows.append({"image_id": image_id, "category_id": category, "bbox": box, "score": score})
        return rows

    def evaluation(self) -> Any:
        """COCO's evaluation of the outputs so far, computed once."""
        if self._evaluation is None:
            self._evaluation = self._backend.evaluate(self._truth, self.results(), self._parameters)
        return self._evaluation

    def _check(self, image_id: int, output: Mapping[str, Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        boxes, scores, labels = (_array(output[key]) for key in ("boxes", "scores", "labels"))
        if boxes.size == 0:
            boxes = boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1] or labels.shape != scores.shape:
            raise ValueError(
                f"image {image_id}: boxes {boxes.shape}, scores {scores.shape} and labels {labels.shape} "
                "should be [n, 4], [n] and [n]"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError(f"image {image_id}: boxes or scores are not finite")
        unknown = set(labels.tolist()) - self._categories.keys()
        if unknown:
            raise ValueError(f"image {image_id}: label {min(unknown)} is not in 1..{len(self._categories)}")
        return boxes, scores, labels


def _array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().to("cpu")
        values = values.double() if values.is_floating_point() else values
        return values.numpy()
    return np.asarray(values)
