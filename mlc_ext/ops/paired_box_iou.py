"""paired_box_iou: IoU or GIoU of matched pairs of boxes. The rule and its contract: csrc/box_iou.h."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._errors import call, check_tensors, choice
from ._register import differentiable, fake_of, float32_under_autocast, gradient_of


def paired_box_iou(boxes1: Tensor, boxes2: Tensor, *, kind: str = "iou") -> Tensor:
    """IoU or GIoU of box i of one set with box i of the other, differentiable in both.

    Args:
        boxes1: [N, 4] floating point xyxy. Half types are computed in float32.
        boxes2: [N, 4] xyxy of the same dtype and device.
        kind: "iou", in [0, 1], or "giou" (generalized IoU, Rezatofighi et al. 2019), in [-1, 1].

    Returns:
        [N] of the inputs' dtype. An empty union gives 0. Where two coordinates tie, the gradient is split in halves
        between them, as torch.maximum does; double backward and forward mode are not provided.

    Raises:
        TypeError: dtypes are not floating point or disagree. ValueError: shapes or devices disagree, unknown kind.
    """
    check_tensors("paired_box_iou", boxes1=boxes1, boxes2=boxes2)
    generalized = choice("paired_box_iou", "kind", kind, ("iou", "giou")) == "giou"
    result: Tensor = call(_op, boxes1, boxes2, generalized)
    return result


@fake_of("paired_box_iou")
def _(boxes1: Tensor, boxes2: Tensor, generalized: bool) -> Tensor:
    return boxes1.new_empty((boxes1.shape[0],))


@fake_of("paired_box_iou_backward")
def _(
    grad: Tensor, boxes1: Tensor, boxes2: Tensor, generalized: bool, first: bool, second: bool
) -> tuple[Tensor, Tensor]:
    n = boxes1.shape[0]
    return boxes1.new_empty((n if first else 0, 4)), boxes2.new_empty((n if second else 0, 4))


def paired_backward(
    grad: Tensor, boxes1: Tensor, boxes2: Tensor, generalized: bool, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of boxes1 and boxes2, each None where it is not needed.

    In the type of grad: under autocast that is float32, whatever the boxes' is.
    """
    first, second = _backward_op(grad, boxes1.to(grad.dtype), boxes2.to(grad.dtype), generalized, *needed)
    return first if needed[0] else None, second if needed[1] else None


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    boxes1, boxes2, ctx.generalized = inputs
    ctx.save_for_backward(boxes1, boxes2)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    boxes1, boxes2 = ctx.saved_tensors
    return *paired_backward(grad, boxes1, boxes2, ctx.generalized, ctx.needs_input_grad[:2]), None


_op = differentiable(
    "paired_box_iou", _setup_context, _backward, instead_of_vmap="flatten the samples' pairs into one call"
)
_backward_op = gradient_of("paired_box_iou")
float32_under_autocast("paired_box_iou")
