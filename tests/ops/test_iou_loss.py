"""iou_loss at the edges of its kernels: blocks of rows, threads, types. More in test_losses.py."""

import math

import pytest
import torch
from comparisons import random_boxes, rng, same_bits

from mlc_ext import iou_loss, paired_box_iou, reference

every_kind = pytest.mark.parametrize("kind", ["iou", "linear_iou", "giou"])


def with_gradient(loss, boxes, *rest, **options):
    leaf = boxes.detach().clone().requires_grad_()
    total = loss(leaf, *rest, **options)
    return total.detach(), torch.autograd.grad(total, leaf)[0]


def case(n, share, seed=0):
    """Pairs that overlap or not, some of which share a side; weights of which `share` are not 0."""
    g = rng(seed)
    boxes, targets = random_boxes(n, g, extent=60).float().round(), random_boxes(n, g, extent=60).float().round()
    near = torch.rand(n, generator=g) < 0.7
    targets[near] = boxes[near] + torch.randint(-4, 5, (int(near.sum()), 4), generator=g)
    weights = torch.rand(n, generator=g) + 0.1
    return boxes, targets, weights.where(torch.rand(n, generator=g) < share, 0)


@every_kind
@pytest.mark.parametrize("n", [1, 63, 64, 65, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.6, 1.0])
def test_rows_that_end_where_blocks_do_and_do_not(kind, n, share):
    boxes, targets, weights = case(n, share)
    total, gradient = with_gradient(iou_loss, boxes, targets, weights, kind=kind)
    exact, slope = with_gradient(reference.iou_loss, boxes.double(), targets.double(), weights.double(), kind=kind)
    torch.testing.assert_close(total.double(), exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-4, atol=1e-6)
    assert (gradient[weights == 0] == 0).all()
    assert gradient.any() or share * n < 30


@every_kind
def test_gradients_are_those_of_paired_box_iou(kind):
    """Row by row the same bits: the rule is the same."""
    boxes, targets, weights = case(300, 0.5)
    _, gradient = with_gradient(iou_loss, boxes, targets, weights, kind=kind, eps=0.05)
    leaf = boxes.clone().requires_grad_()
    iou = paired_box_iou(leaf, targets, kind="giou" if kind == "giou" else "iou")
    slope = torch.full_like(iou, -1) if kind != "iou" else -1 / iou.detach()
    if kind != "giou":
        slope = slope.where(iou >= 0.05, 0)
        assert (iou < 0.05).any() and (iou >= 0.05).any()
    (expected,) = torch.autograd.grad(iou, leaf, (slope * weights).where(weights != 0, 0))
    same_bits(gradient + 0.0, expected + 0.0)


@every_kind
def test_threads_do_not_change_a_bit(threads, kind):
    inputs = case(20_000, 0.3)
    results = []
    for n in (1, 2, 3, 4):
        threads(n)
        results.append(with_gradient(iou_loss, *inputs, kind=kind))
    for found in results[1:]:
        for ours, first in zip(found, results[0], strict=True):
            same_bits(ours, first)


@every_kind
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rows_of_weight_0_are_not_read(kind, value):
    boxes, targets, weights = case(2000, 0.3)
    off = weights == 0
    clean = with_gradient(iou_loss, boxes, targets, weights, kind=kind)
    found = with_gradient(
        iou_loss, boxes.masked_fill(off[:, None], value), targets.masked_fill(off[:, None], value), weights, kind=kind
    )
    for ours, theirs in zip(found, clean, strict=True):
        same_bits(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_kind
def test_half_boxes_have_the_bits_of_float32(dtype, kind):
    boxes, targets, weights = (t.to(dtype) for t in case(100, 0.5))
    total, gradient = with_gradient(iou_loss, boxes, targets, weights, kind=kind)
    want, wide = with_gradient(iou_loss, *(t.float() for t in (boxes, targets, weights)), kind=kind)
    same_bits(total, want)
    same_bits(gradient, wide.to(dtype))


def test_boxes_and_targets_of_two_types():
    boxes, targets, weights = case(100, 0.5)
    total, gradient = with_gradient(iou_loss, boxes.bfloat16(), targets, weights > 0)
    want, wide = with_gradient(iou_loss, boxes.bfloat16().float(), targets, weights > 0)
    same_bits(total, want)
    same_bits(gradient, wide.bfloat16())
    assert iou_loss(boxes, targets.double()).dtype == torch.float64


def test_eps_is_a_bound_that_still_counts():
    """An IoU of eps itself passes its gradient; one below does not."""
    boxes, targets = torch.tensor([[0.0, 0.0, 4.0, 1.0]]), torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    for eps, passes in ((0.25, True), (0.2500001, False)):
        total, gradient = with_gradient(iou_loss, boxes, targets, eps=eps)
        assert total.item() == pytest.approx(-math.log(eps), rel=1e-6) and gradient.any() == passes


def test_eps_must_not_vanish_in_the_computed_type():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    with pytest.raises(ValueError, match="eps must be in .* got 1e-50"):
        iou_loss(boxes, boxes + 5, eps=1e-50)
    assert torch.isfinite(iou_loss(boxes.double(), boxes.double() + 5, eps=1e-50))


def test_targets_and_weights_are_constants():
    leaves = [t.requires_grad_() for t in case(20, 0.5)]
    iou_loss(*leaves).backward()
    assert leaves[0].grad.any() and leaves[1].grad is None and leaves[2].grad is None
    fixed = iou_loss(leaves[0].detach(), *leaves[1:])
    assert not fixed.requires_grad
