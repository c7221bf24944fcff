"""The divergence of predictions from a file, by class and size, and how much AP is lost by the ranking."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mlc_ext import Divergence, box_iou, iou_nms, rescored_nms
from mlc_ext.divergence import spearman

from .. import interrupts
from ..data.coco.ground_truth import GroundTruth
from ..data.inspection import LARGE, SMALL
from .coco_metrics import CocoEvaluator
from .prediction_rows import PredictionRows

SIZES = {"small": (0.0, SMALL**2), "medium": (SMALL**2, LARGE**2), "large": (LARGE**2, np.inf)}
"""COCO's, of the annotations' areas in pixels."""

RANKINGS = {
    "score": "the detector's own ranking",
    "oracle_nms": "NMS ranked by the true IoU; a kept box takes the best score of its cluster",
    "oracle_ranking": "every score replaced by the true IoU",
}
"""The rankings whose AP is measured."""

NUM_BINS = 10
MAX_DETECTIONS = 100


@dataclass
class Group:
    """The divergence of a part of the objects."""

    name: str
    objects: int
    per_gt: float
    """Mean rho over the objects, NaN if it is undefined for all."""
    per_gt_count: int
    pooled: float
    pooled_count: int


@dataclass
class Reliability:
    """The true IoU by score, in bins of equal width."""

    scores: np.ndarray
    """[NUM_BINS] mean score, NaN for an empty bin."""
    ious: np.ndarray
    """[NUM_BINS] mean IoU with the nearest object of the class, 0 for none."""
    counts: np.ndarray
    """[NUM_BINS]."""


@dataclass
class FileDivergence:
    """What :func:`measure_predictions` found."""

    divergence: Divergence
    classes: list[Group]
    sizes: list[Group]
    ap: dict[str, dict[str, float]]
    """AP, AP50 and AP75 by ranking, see :data:`RANKINGS`; "oracle_nms" before NMS alone."""
    reliability: Reliability
    num_images: int
    """Images that have predictions."""

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {
            **self.divergence.compute(),
            "classes": [asdict(group) for group in self.classes],
            "sizes": [asdict(group) for group in self.sizes],
            "ap": self.ap,
            "reliability": {name: values.tolist() for name, values in vars(self.reliability).items()},
            "images_with_predictions": self.num_images,
        }


def measure_predictions(
    rows: PredictionRows,
    truth: GroundTruth,
    *,
    top_k: int = 50,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    nms_iou: float = 0.6,
    backend: str = "pycocotools",
    progress: bool = False,
) -> FileDivergence:
    """Both protocols of :class:`mlc_ext.Divergence`, over all objects, by class and by size; the reliability of the
    scores; and AP by three rankings.

    Args:
        top_k, score_threshold, iou_threshold: of :class:`mlc_ext.Divergence`.
        nms_iou: the threshold of the NMS that AP needs; for predictions before NMS alone.
    """
    divergence = Divergence(top_k=top_k, score_threshold=score_threshold, iou_threshold=iou_threshold)
    names = [name for name in RANKINGS if rows.before_nms or name != "oracle_nms"]
    evaluators = {name: CocoEvaluator(truth, backend=backend) for name in names}
    labels, areas, collected, seen = [], [], [], 0
    images = tqdm(rows.of_images(truth), total=len(truth.image_ids), unit="img", disable=not progress, leave=False)
    for index, found in images:
        interrupts.check()
        target = truth.table.target(index)
        divergence.update(found, target)
        counted = ~target["iscrowd"]
        labels.append(target["labels"][counted])
        areas.append(target["area"][counted])
        ious = _true_ious(found, target["boxes"][counted], target["labels"][counted])
        above = found["raw_scores"] > score_threshold
        collected.append(torch.stack([found["scores"][above], ious[above]]))
        seen += len(ious) > 0
        for name, evaluator in evaluators.items():
            chosen = _detections(found, ious, name, rows.before_nms, score_threshold, nms_iou)
            evaluator.update([truth.image_ids[index]], [chosen])
    labels, areas = torch.cat(labels).numpy(), torch.cat(areas).numpy()
    by_class = {name: labels == label for label, name in enumerate(truth.classes.names, start=1)}
    by_size = {name: (areas >= low) & (areas < high) for name, (low, high) in SIZES.items()}
    return FileDivergence(
        divergence,
        *(_groups(divergence, groups) for groups in (by_class, by_size)),
        {name: _ap(evaluator) for name, evaluator in evaluators.items()},
        _reliability(*torch.cat(collected, 1).numpy()),
        seen,
    )


def _true_ious(found: dict[str, Tensor], gt_boxes: Tensor, gt_labels: Tensor) -> Tensor:
    """[P] the IoU with the nearest object of the prediction's class, 0 for none."""
    ious = torch.zeros(len(found["boxes"]))
    for label in gt_labels.unique().tolist():
        own = found["labels"] == label
        ious[own] = box_iou(found["boxes"][own], gt_boxes[gt_labels == label]).amax(1)
    return ious


def _detections(
    found: dict[str, Tensor], ious: Tensor, ranking: str, before_nms: bool, score_threshold: float, nms_iou: float
) -> dict[str, Tensor]:
    """The detections of an image by one of the rankings."""
    scores = ious if ranking == "oracle_ranking" else found["scores"]
    boxes, labels = found["boxes"], found["labels"]
    if before_nms:
        above = found["raw_scores"] > score_threshold
        boxes, scores, labels, ious = (x[above] for x in (boxes, scores, labels, ious))
        if ranking == "oracle_nms":
            keep, scores = iou_nms(boxes, scores, ious, labels, nms_iou)
        else:
            keep = rescored_nms(boxes, scores, None, labels, nms_iou)
            scores = scores[keep]
        boxes, scores, labels = boxes[keep][:MAX_DETECTIONS], scores[:MAX_DETECTIONS], labels[keep][:MAX_DETECTIONS]
    return {"boxes": boxes, "scores": scores, "labels": labels}


def _ap(evaluator: CocoEvaluator) -> dict[str, float]:
    metrics = evaluator.summarize()
    return {name: metrics[name] for name in ("AP", "AP50", "AP75")}


def _groups(divergence: Divergence, members: dict[str, np.ndarray]) -> list[Group]:
    """members: [K] bool of each group."""
    state = divergence.state_dict()
    rhos, gts = state["rhos"].numpy(), state["gts"].numpy()
    groups = []
    for name, own in members.items():
        defined = rhos[own & ~np.isnan(rhos)]
        pairs = torch.from_numpy(own[gts])
        groups.append(
            Group(
                name,
                int(own.sum()),
                float(defined.mean()) if len(defined) else float("nan"),
                len(defined),
                spearman(state["scores"][pairs], state["ious"][pairs]),
                int(pairs.sum()),
            )
        )
    return groups


def _reliability(scores: np.ndarray, ious: np.ndarray) -> Reliability:
    bins = np.clip((scores * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(bins, weights=x, minlength=NUM_BINS) / counts for x in (scores, ious)]
    return Reliability(*means, counts)
