"""What :class:`mlc_ext.Divergence` and :class:`mlc_ext.PredictionWriter` take of an image, read and checked."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ._dtypes import at_least_float32
from ._errors import check_int64, check_range, check_shape


def read_predictions(op: str, predictions: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """-> boxes, scores, raw_scores, and labels of sparse predictions, on the device of the boxes and without gradient.

    At least float32: IoUs and scores in half precision would tie.
    """
    boxes, scores = (at_least_float32(predictions[name].detach()) for name in ("boxes", "scores"))
    raw_scores = predictions.get("raw_scores")
    raw_scores = scores if raw_scores is None else at_least_float32(raw_scores.detach())
    labels = predictions.get("labels")
    _check_predictions(op, boxes, scores, raw_scores, labels)
    return boxes, scores, raw_scores, None if labels is None else labels.to(boxes.device)


def read_gts(op: str, targets: Mapping[str, Tensor], like: Tensor, allowed: range | None) -> tuple[Tensor, Tensor]:
    """Boxes [K, 4], in dtype and on the device of ``like``, and labels [K] of the gts that are not crowd."""
    boxes, labels = targets["boxes"].detach().to(like), targets["labels"].to(like.device)
    if labels.dim() != 1 or boxes.shape != (len(labels), 4):
        shapes = f"{list(boxes.shape)} and {list(labels.shape)}"
        raise ValueError(f"{op}: gt boxes must have shape [K, 4] and labels [K], got {shapes}")
    check_int64(op, "labels", labels)
    if allowed is not None:
        check_range(op, "labels", labels, allowed.start, allowed.stop - 1)
    if (iscrowd := targets.get("iscrowd")) is None:
        return boxes, labels
    check_shape(op, "iscrowd", iscrowd, labels.shape)
    keep = ~iscrowd.to(like.device).bool()
    return boxes[keep], labels[keep]


def _check_predictions(op: str, boxes: Tensor, scores: Tensor, raw_scores: Tensor, labels: Tensor | None) -> None:
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{op}: predicted boxes must have shape [P, 4], got {list(boxes.shape)}")
    if labels is not None:
        check_int64(op, "predicted labels", labels)
        if labels.shape != (len(boxes),) or scores.shape != labels.shape:
            shapes = f"{list(scores.shape)} and {list(labels.shape)}"
            raise ValueError(f"{op}: scores and labels must have shape [{len(boxes)}], got {shapes}")
    elif scores.dim() != 2 or len(scores) != len(boxes):
        raise ValueError(f"{op}: scores must have shape [{len(boxes)}, C], got {list(scores.shape)}")
    check_shape(op, "raw_scores", raw_scores, scores.shape)
    for name, x in (("predicted boxes", boxes), ("scores", scores), ("raw_scores", raw_scores)):
        wrong = x[~x.isfinite()]
        if wrong.numel() > 0:
            raise ValueError(f"{op}: {name} must be finite, got {wrong[0]} ({wrong.numel()} in all)")
