"""COCO metrics of detections and of proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .coco_evaluation import class_means, defined_mean
from .collector import Collector
from .curves import ClassCurves, PrecisionCurves, RecallCurves

_AREAS = {"all": 0, "small": 1, "medium": 2, "large": 3}  # pycocotools' order
_COUNTS = (1, 10, 100)
"""Detections of an image and class at which COCO takes the recall; AP uses the last."""


class CocoEvaluator(Collector):
    """Average precision and recall as COCO defines them.

    All images of the data set count, those without any `update` as images without detections.

    Args:
        dataset: a `CocoDetection`, or anything with `ground_truth()` and `label_to_category`.
        backend: "pycocotools", or "faster_coco_eval": the same figures in less time, if it is installed.
    """

    def __init__(self, dataset: Any, *, backend: str = "pycocotools"):
        super().__init__(
            dataset.ground_truth(),
            dataset.label_to_category,
            most=_COUNTS[-1],
            parameters={"maxDets": list(_COUNTS)},
            backend=backend,
        )

    def curves(self) -> PrecisionCurves:
        """Precision over recall at every IoU threshold of AP, from COCO's own arrays."""
        evaluation = self.evaluation()
        precision = evaluation.eval["precision"][:, :, :, _AREAS["all"], -1]  # [T, R, K]
        return PrecisionCurves(evaluation.params.iouThrs, evaluation.params.recThrs, class_means(precision))

    def class_curves(self) -> ClassCurves:
        """Precision over recall of every class, from COCO's own arrays."""
        evaluation = self.evaluation()
        precision, recall = (
            np.where(values > -1, values, np.nan)
            for values in (
                evaluation.eval["precision"][:, :, :, _AREAS["all"], -1],
                evaluation.eval["recall"][:, :, _AREAS["all"], -1],
            )
        )
        params = evaluation.params
        return ClassCurves(list(map(int, params.catIds)), params.iouThrs, params.recThrs, precision, recall)

    def summarize(self) -> dict[str, float]:
        """AP (IoU .5:.95), AP50, AP75, APs, APm, APl and AR1, AR10, AR100, each in 0..1; NaN where there is nothing
        to find."""
        evaluation = self.evaluation()
        precision = evaluation.eval["precision"]  # [T, R, K, A, M]
        recall = evaluation.eval["recall"]  # [T, K, A, M]
        thresholds = evaluation.params.iouThrs
        result = {
            "AP": defined_mean(precision[:, :, :, _AREAS["all"], -1]),
            "AP50": defined_mean(precision[np.isclose(thresholds, 0.5), :, :, _AREAS["all"], -1]),
            "AP75": defined_mean(precision[np.isclose(thresholds, 0.75), :, :, _AREAS["all"], -1]),
        }
        for key, area in (("APs", "small"), ("APm", "medium"), ("APl", "large")):
            result[key] = defined_mean(precision[:, :, :, _AREAS[area], -1])
        for k, count in enumerate(_COUNTS):
            result[f"AR{count}"] = defined_mean(recall[:, :, _AREAS["all"], k])
        return result


class ProposalEvaluator(Collector):
    """Average recall of class-agnostic proposals (the paper's Table 4): AR@100, AR@300 and AR@1000 over IoU
    .5:.95, the best so many by score, all classes as one; crowd boxes are dropped.

    Outputs need `boxes` and `scores` only. `dataset` and `backend` are as for `CocoEvaluator`.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        counts: Sequence[int] = (100, 300, 1000),
        backend: str = "pycocotools",
    ):
        self.counts = sorted(counts)
        truth = dataset.ground_truth()
        objects = [{**row, "category_id": 1} for row in truth["annotations"] if not row["iscrowd"]]
        super().__init__(
            {**truth, "annotations": objects, "categories": [{"id": 1, "name": "object"}]},
            {1: 1},
            most=self.counts[-1],
            parameters={"maxDets": self.counts, "useCats": 0},
            backend=backend,
        )

    def _check(self, image_id: int, output: Mapping[str, Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ones = torch.ones(len(output["scores"]), dtype=torch.int64)
        return super()._check(image_id, {"boxes": output["boxes"], "scores": output["scores"], "labels": ones})

    def curves(self) -> RecallCurves:
        """Recall at every IoU threshold of AR and every count, from COCO's own arrays."""
        evaluation = self.evaluation()
        recall = evaluation.eval["recall"][:, :, _AREAS["all"]]  # [T, K, M]
        return RecallCurves(evaluation.params.iouThrs, self.counts, class_means(recall.swapaxes(1, 2)))

    def summarize(self) -> dict[str, float]:
        """AR@n for every count, and ARs, ARm, ARl (small, medium, large objects) at the last; in 0..1, NaN
        without objects."""
        recall = self.evaluation().eval["recall"]  # [T, K, A, M]
        result = {f"AR@{count}": defined_mean(recall[:, :, _AREAS["all"], k]) for k, count in enumerate(self.counts)}
        for key, area in (("ARs", "small"), ("ARm", "medium"), ("ARl", "large")):
            result[key] = defined_mean(recall[:, :, _AREAS[area], -1])
        return result
