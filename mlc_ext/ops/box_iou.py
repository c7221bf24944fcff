"""box_iou: the matrix of IoUs of two sets of boxes. The rule and its contract: csrc/box_iou.h."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._errors import call, check_tensors
from ._register import differentiable, fake_of, float32_under_autocast
from .paired_box_iou import paired_backward


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of every box of one set with every box of the other.

    Args:
        boxes1: [N, 4] floating point xyxy. Half types are computed in float32.
        boxes2: [M, 4] xyxy of the same dtype and device.

    Returns:
        [N, M] IoUs in [0, 1] of the inputs' dtype; 0 where a union is empty. Differentiable with respect to both, once
        and in reverse mode (the backward pass takes O(N M) memory; for matched pairs use :func:`paired_box_iou`).

    Raises:
        TypeError: dtypes are not floating point or disagree. ValueError: a shape is not [N, 4] or [M, 4], or
        devices disagree.
    """
    check_tensors("box_iou", boxes1=boxes1, boxes2=boxes2)
    result: Tensor = call(_op, boxes1, boxes2)
    return result


@fake_of("box_iou")
def _(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return boxes1.new_empty((boxes1.shape[0], boxes2.shape[0]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    boxes1, boxes2 = ctx.saved_tensors
    shape = (boxes1.shape[0], boxes2.shape[0], 4)
    pairs1 = boxes1[:, None].expand(shape).reshape(-1, 4)
    pairs2 = boxes2[None].expand(shape).reshape(-1, 4)
    grads = paired_backward(grad.reshape(-1), pairs1, pairs2, False, ctx.needs_input_grad[:2])
    return tuple(None if g is None else g.view(shape).sum(1 - side) for side, g in enumerate(grads))


_op = differentiable(
    "box_iou",
    _setup_context,
    _backward,
    instead_of_vmap="call it once a sample, or paired_box_iou on the samples' flattened pairs",
)
float32_under_autocast("box_iou")
