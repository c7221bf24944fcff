"""COCO metrics of detections and of proposals, by pycocotools or faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import distributed

_LOG = logging.getLogger(__name__)
_AREAS = {"all": 0, "small": 1, "medium": 2, "large": 3}  # pycocotools' order


def _backend(name: str) -> tuple[type, type]:
    """(COCO, COCOeval) of the package `name`; pycocotools' where it is not installed: the figures are the same."""
    if name == "faster_coco_eval":
        try:
            from faster_coco_eval import COCO as FasterCOCO
            from faster_coco_eval import COCOeval_faster
        except ImportError as error:
            _LOG.warning("%s: pycocotools evaluates instead (pip install mlc-ext[faster])", error)
        else:
            return FasterCOCO, COCOeval_faster
    elif name != "pycocotools":
        raise ValueError(f"the evaluator must be pycocotools or faster_coco_eval, got {name!r}")
    # here, so that the detectors can be used without it
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval


class Matches(NamedTuple):
    """Detections and objects of a data set, matched as COCO does. What it ignores, crowd and its detections, is in
    neither list."""

    detections: list[tuple[dict[str, Any], dict[str, Any] | None]]
    """Each detection, a row in results format, with the annotation it matches; None: a false positive."""
    missed: list[dict[str, Any]]
    """Annotations that no detection matches."""


class PrecisionCurves(NamedTuple):
    """Precision of all areas, classes averaged; NaN without any object."""

    ious: np.ndarray
    """[T] IoU thresholds."""
    recalls: np.ndarray
    """[R] recall levels."""
    precision: np.ndarray
    """[T, R] at each threshold and recall level."""

    @property
    def ap(self) -> np.ndarray:
        """[T] AP at each threshold; its mean is AP."""
        return self.precision.mean(1)


class ClassCurves(NamedTuple):
    """Precision and recall of all areas by class; NaN for a class without objects."""

    categories: list[int]
    """The K category ids, sorted."""
    ious: np.ndarray
    """[T] IoU thresholds."""
    recalls: np.ndarray
    """[R] recall levels."""
    precision: np.ndarray
    """[T, R, K]."""
    recall: np.ndarray
    """[T, K] the largest recall."""


class RecallCurves(NamedTuple):
    """Recall of proposals; NaN without objects."""

    ious: np.ndarray
    """[T] IoU thresholds."""
    counts: list[int]
    """[M] proposals an image."""
    recall: np.ndarray
    """[T, M]; the mean over thresholds is AR@count."""


class _Collector:
    """Gathers outputs by image and evaluates them with COCO's code."""

    def __init__(self, ground_truth: Mapping[str, Any], backend: str):
        self._coco, self._eval = _backend(backend)
        self.image_ids = sorted(entry["id"] for entry in ground_truth["images"])
        self._ids = set(self.image_ids)
        self._truth = self._as_coco(ground_truth)
        self._rows: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}  # boxes xyxy, scores, labels
        self._done: Any = None  # the evaluation of these outputs

    @property
    def num_images(self) -> int:
        """Images seen so far."""
        return len(self._rows)

    def reset(self) -> None:
        """Forgets all outputs."""
        self._rows.clear()
        self._done = None

    @property
    def truth(self) -> dict[str, Any]:
        """The ground truth in COCO's format, as it is evaluated against."""
        return self._truth.dataset

    def update(self, image_ids: Sequence[int], outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Takes the outputs of some images; an image that was seen before counts no second time (its first
        output stays).

        Raises:
            ValueError: unknown image or label, shapes that do not agree, or a value that is not finite.
        """
        self._done = None
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
        self._rows, self._done = merged, None

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
        return boxes, scores, labels

    def _as_coco(self, content: Mapping[str, Any]) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = self._coco()
            coco.dataset = dict(content)
            coco.createIndex()
        return coco

    def _results(self, categories: Mapping[int, int]) -> list[dict[str, Any]]:
        """The outputs in COCO's results format, images in order."""
        rows = []
        for image_id in self.image_ids:
            if image_id not in self._rows:
                continue
            boxes, scores, labels = self._rows[image_id]
            xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
            for box, score, label in zip(xywh.tolist(), scores.tolist(), labels.tolist(), strict=True):
                rows.append({"image_id": image_id, "category_id": categories[int(label)], "bbox": box, "score": score})
        return rows

    def results(self) -> list[dict[str, Any]]:
        """The outputs in COCO's results format: image_id, category_id (proposals: 1), bbox (x, y, width, height),
        score."""
        raise NotImplementedError

    def matches(self, iou: float = 0.5) -> Matches:
        """What COCO's evaluation matches at one of its IoU thresholds, .5, .55, ..., .95 (only with pycocotools)."""
        evaluation = self._evaluation()
        (threshold,) = np.flatnonzero(np.isclose(evaluation.params.iouThrs, iou))
        rows, objects = self.results(), {entry["id"]: entry for entry in self.truth["annotations"]}
        detections, missed = [], []
        for part in evaluation.evalImgs:
            if part is None or list(part["aRng"]) != list(evaluation.params.areaRng[_AREAS["all"]]):
                continue
            for number, gt, ignored in zip(
                part["dtIds"], part["dtMatches"][threshold], part["dtIgnore"][threshold], strict=True
            ):
                if not ignored:
                    detections.append((rows[int(number) - 1], objects[int(gt)] if gt else None))
            for gt, match, ignored in zip(part["gtIds"], part["gtMatches"][threshold], part["gtIgnore"], strict=True):
                if not ignored and not match:
                    missed.append(objects[int(gt)])
        return Matches(detections, missed)

    def _evaluation(self) -> Any:
        """COCO's evaluation of the outputs so far."""
        raise NotImplementedError

    def _evaluate(self, categories: Mapping[int, int], **parameters: Any) -> Any:
        if self._done is not None:
            return self._done
        rows = [
            {**row, "id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
            for number, row in enumerate(self._results(categories), start=1)
        ]
        # Not COCO.loadRes, which cannot take an empty list.
        detections = self._as_coco({**self._truth.dataset, "annotations": rows})
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = self._eval(self._truth, detections, "bbox")
            evaluation.params.imgIds = self.image_ids
            for name, value in parameters.items():
                setattr(evaluation.params, name, value)
            evaluation.evaluate()
            evaluation.accumulate()
        self._done = evaluation
        return evaluation


class CocoEvaluator(_Collector):
    """Average precision and recall as COCO defines them.

    All images of the data set count, those without any `update` as images without detections.

    Args:
        dataset: a `CocoDetection`, or anything with `ground_truth()` and `label_to_category`.
        max_detections: detections per image and class that the three recalls look at; AP uses the last.
        backend: "pycocotools", or "faster_coco_eval": the same figures in less time, if it is installed.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        max_detections: tuple[int, int, int] = (1, 10, 100),
        backend: str = "pycocotools",
    ):
        super().__init__(dataset.ground_truth(), backend)
        self._categories = dict(dataset.label_to_category)
        self.max_detections = tuple(max_detections)

    def _check(self, image_id: int, output: Mapping[str, Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        boxes, scores, labels = super()._check(image_id, output)
        unknown = set(labels.tolist()) - self._categories.keys()
        if unknown:
            raise ValueError(f"image {image_id}: label {min(unknown)} is not in 1..{len(self._categories)}")
        return boxes, scores, labels

    def results(self) -> list[dict[str, Any]]:
        return self._results(self._categories)

    def _evaluation(self) -> Any:
        return self._evaluate(self._categories, maxDets=list(self.max_detections))

    def curves(self) -> PrecisionCurves:
        """Precision over recall at every IoU threshold of AP, from COCO's own arrays."""
        evaluation = self._evaluation()
        precision = evaluation.eval["precision"][:, :, :, _AREAS["all"], -1]  # [T, R, K]
        return PrecisionCurves(evaluation.params.iouThrs, evaluation.params.recThrs, _means(precision))

    def class_curves(self) -> ClassCurves:
        """Precision over recall of every class, from COCO's own arrays."""
        evaluation = self._evaluation()
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
        """AP (IoU .5:.95), AP50, AP75, APs, APm, APl and AR1, AR10, AR100 (the counts of `max_detections`),
        each in 0..1; NaN where there is nothing to find."""
        evaluation = self._evaluation()
        precision, recall = (
            evaluation.eval["precision"],
            evaluation.eval["recall"],
        )  # [T, R, K, A, M], [T, K, A, M]
        thresholds = evaluation.params.iouThrs
        result = {
            "AP": _mean(precision[:, :, :, 0, -1]),
            "AP50": _mean(precision[np.isclose(thresholds, 0.5), :, :, 0, -1]),
            "AP75": _mean(precision[np.isclose(thresholds, 0.75), :, :, 0, -1]),
        }
        for key, area in (("APs", "small"), ("APm", "medium"), ("APl", "large")):
            result[key] = _mean(precision[:, :, :, _AREAS[area], -1])
        for k, count in enumerate(self.max_detections):
            result[f"AR{count}"] = _mean(recall[:, :, 0, k])
        return result


class ProposalEvaluator(_Collector):
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
        truth = dataset.ground_truth()
        objects = [{**row, "category_id": 1} for row in truth["annotations"] if not row["iscrowd"]]
        truth = {**truth, "annotations": objects, "categories": [{"id": 1, "name": "object"}]}
        super().__init__(truth, backend)
        self.counts = sorted(counts)

    def _check(self, image_id: int, output: Mapping[str, Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ones = torch.ones(len(output["scores"]), dtype=torch.int64)
        return super()._check(image_id, {"boxes": output["boxes"], "scores": output["scores"], "labels": ones})

    def results(self) -> list[dict[str, Any]]:
        return self._results({1: 1})

    def _evaluation(self) -> Any:
        return self._evaluate({1: 1}, maxDets=self.counts, useCats=0)

    def curves(self) -> RecallCurves:
        """Recall at every IoU threshold of AR and every count, from COCO's own arrays."""
        evaluation = self._evaluation()
        recall = evaluation.eval["recall"][:, :, _AREAS["all"]]  # [T, K, M]
        return RecallCurves(evaluation.params.iouThrs, self.counts, _means(recall.swapaxes(1, 2)))

    def summarize(self) -> dict[str, float]:
        """AR@n for every count, and ARs, ARm, ARl (small, medium, large objects) at the last; in 0..1, NaN
        without objects."""
        recall = self._evaluation().eval["recall"]  # [T, K, A, M]
        result = {f"AR@{count}": _mean(recall[:, :, 0, k]) for k, count in enumerate(self.counts)}
        for key, area in (("ARs", "small"), ("ARm", "medium"), ("ARl", "large")):
            result[key] = _mean(recall[:, :, _AREAS[area], -1])
        return result


def _array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().to("cpu")
        values = values.double() if values.is_floating_point() else values
        return values.numpy()
    return np.asarray(values)


def _mean(values: np.ndarray) -> float:
    """Mean over what is defined: pycocotools writes -1 where there is no ground truth."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _means(values: np.ndarray) -> np.ndarray:
    """[..., K] -> [...]: :func:`_mean` over the classes."""
    defined = values > -1
    count = defined.sum(-1)
    return np.where(count > 0, np.where(defined, values, 0).sum(-1) / np.maximum(count, 1), np.nan)
