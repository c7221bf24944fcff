"""The operator batched_rescored_nms in standard ONNX operators."""

from __future__ import annotations

from onnxscript import FLOAT, INT64
from onnxscript import opset18 as op

OPSET = 18

_NO_CANDIDATE = -1.0
"""The product of score and quality is never negative."""


def batched_rescored_nms(
    boxes: FLOAT,
    scores: FLOAT,
    quality: FLOAT,
    labels: INT64,
    iou_threshold: float,
    score_threshold: float,
    pre_nms_top_k: int,
    max_detections: int,
):
    """The contract of csrc/rescored_nms.h for the inputs of the postprocessor: boxes [B, K, 4]; scores, quality and
    labels [B, K], none of them negative (but scores of -inf, which are padding); no limit before NMS. Of equal products
    the lower index is first: TopK is specified so, and NonMaxSuppression of onnxruntime does it."""
    if pre_nms_top_k >= 0 or max_detections < 0:
        raise NotImplementedError("batched_rescored_nms in ONNX: without pre_nms_top_k and with max_detections only")
    int64, axis_1 = INT64.dtype, op.Constant(value_ints=[1])
    nothing = op.Constant(value_float=_NO_CANDIDATE)
    most = op.Constant(value_ints=[max_detections])
    # scores of -inf are padding; a threshold of -inf is not written, since some runtimes read it as the lowest number
    candidate = op.Greater(scores, op.Constant(value_float=max(score_threshold, -3e38)))
    rank = op.Where(candidate, op.Mul(scores, quality), nothing)  # [B, K]
    # [B, G, K]: a box is a candidate of its own class (or level) only. Shifted coordinates would round.
    last = op.ReduceMax(labels, keepdims=0)
    groups = op.Range(op.Constant(value_int=0), op.Add(last, op.Constant(value_int=1)), op.Constant(value_int=1))
    groups = op.Unsqueeze(groups, op.Constant(value_ints=[0, 2]))
    own = op.Equal(op.Unsqueeze(labels, axis_1), groups)
    by_group = op.Where(own, op.Unsqueeze(rank, axis_1), nothing)
    chosen = op.NonMaxSuppression(
        boxes, by_group, most, op.Constant(value_floats=[iou_threshold]), op.Constant(value_floats=[_NO_CANDIDATE / 2])
    )  # [n, 3]: image, group, box
    places = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)
    kept = op.ScatterND(op.Expand(nothing, op.Shape(rank)), places, op.GatherND(rank, places))  # [B, K]
    size = op.Gather(op.Shape(rank), axis_1)
    values, index = op.TopK(kept, op.Min(size, most))
    valid = op.Greater(values, op.Constant(value_float=_NO_CANDIDATE / 2))
    keep = op.Where(valid, index, op.Constant(value_int=-1))
    found = op.Where(valid, values, op.Constant(value_float=0.0))
    counts = op.ReduceSum(op.Cast(valid, to=int64), axis_1, keepdims=0)
    return keep, found, counts
