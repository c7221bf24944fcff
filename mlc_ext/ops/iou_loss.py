"""iou_loss: the localization loss, fused. The rule and its contract: csrc/iou_loss.h."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import call, check_floating, check_tensors, choice
from .._loss_inputs import row_weights
from ._register import differentiable_loss, fake_of

_KINDS = ("iou", "linear_iou", "giou")


def iou_loss(
    boxes: Tensor, targets: Tensor, weights: Tensor | None = None, kind: str = "iou", eps: float = 1e-6
) -> Tensor:
    """Sum of the IoU losses of matched boxes.

    Args:
        boxes: [N, 4] decoded predictions, floating point xyxy. Half types are computed in float32; the gradient has the
            boxes' dtype.
        targets: [N, 4] their gt boxes, xyxy. Constants.
        weights: [N] weights or mask, None for 1. Constants; a row of weight 0 is not read, and its gradient is 0.
        kind: "iou": -log(IoU) (UnitBox, FCOS); "linear_iou": 1 - IoU; "giou": 1 - GIoU (Rezatofighi 2019).
        eps: lower bound of the IoU for "iou" and "linear_iou", in (0, 1]: boxes that overlap less get no
            gradient, as in MMDetection. Only "giou" draws disjoint boxes together.

    Returns:
        Scalar sum, at least float32. Differentiable with respect to boxes, once and in reverse mode. Its bits do not
        depend on the number of threads.

    Raises:
        TypeError: a dtype is wrong. ValueError: shapes or devices disagree, unknown kind, eps out of its range.
    """
    check_tensors("iou_loss", boxes=boxes, targets=targets)
    index = _KINDS.index(choice("iou_loss", "kind", kind, _KINDS))
    check_floating("iou_loss", "boxes", boxes)
    check_floating("iou_loss", "targets", targets)
    targets = targets.detach()
    if boxes.dtype != targets.dtype:  # autocast leaves a head in half while its targets are float32
        dtype = torch.promote_types(boxes.dtype, targets.dtype)
        boxes, targets = boxes.to(dtype), targets.to(dtype)
    result: Tensor = call(_op, boxes, targets, row_weights("iou_loss", weights, boxes.dtype), index, eps)
    return result


@fake_of("iou_loss")
def _(boxes: Tensor, targets: Tensor, weights: Tensor | None, kind: int, eps: float) -> Tensor:
    return boxes.new_empty((), dtype=torch.promote_types(boxes.dtype, torch.float32))


@fake_of("iou_loss_backward")
def _(grad: Tensor, boxes: Tensor, targets: Tensor, weights: Tensor | None, kind: int, eps: float) -> Tensor:
    return boxes.new_empty(boxes.shape)


# no cast under autocast: the kernels read half types, and compute in float32
_op = differentiable_loss("iou_loss")
