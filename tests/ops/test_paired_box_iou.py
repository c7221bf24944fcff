"""paired_box_iou (IoU, GIoU) and its gradient against the reference, exact arithmetic, finite differences."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DTYPES,
    as_boxes,
    coordinates,
    half_pixels,
    on,
    random_boxes,
    rng,
    same_bits,
    same_values,
    seeds,
)

from mlc_ext import paired_box_iou, reference

kinds = st.sampled_from(["iou", "giou"])
pytestmark = pytest.mark.filterwarnings("error")


def iou(device, boxes1, boxes2, kind="iou"):
    result = paired_box_iou(*on(device, boxes1, boxes2), kind=kind)
    assert result.device.type == device
    return result.cpu()


def exact(a, b, kind) -> Fraction:
    def length(low, high):
        return max(Fraction(high) - Fraction(low), Fraction(0))

    inter = length(max(a[0], b[0]), min(a[2], b[2])) * length(max(a[1], b[1]), min(a[3], b[3]))
    union = length(a[0], a[2]) * length(a[1], a[3]) + length(b[0], b[2]) * length(b[1], b[3]) - inter
    hull = length(min(a[0], b[0]), max(a[2], b[2])) * length(min(a[1], b[1]), max(a[3], b[3]))
    value = inter / union if union > 0 else Fraction(0)
    return value - (hull - union) / hull if kind == "giou" and hull > 0 else value


@st.composite
def pairs(draw, coordinate=None, max_size=12):
    """Two lists of as many boxes; some are equal, touch, or are empty or inverted."""
    box = st.tuples(*[draw(coordinates) if coordinate is None else coordinate] * 4)
    couples = draw(st.lists(st.one_of(st.tuples(box, box), box.map(lambda b: (b, b))), max_size=max_size))
    return [list(a) for a, _ in couples], [list(b) for _, b in couples]


@given(pairs(), st.sampled_from(DTYPES), kinds)
def test_reference(device, couples, dtype, kind):
    boxes1, boxes2 = (as_boxes(b, dtype) for b in couples)
    same_values(iou(device, boxes1, boxes2, kind), reference.paired_box_iou(boxes1, boxes2, kind=kind))


@given(pairs(st.integers(-20, 40)), kinds)
def test_exact_on_integer_boxes(device, couples, kind):
    result = iou(device, *(as_boxes(b, torch.float64) for b in couples), kind)
    expected = [float(exact(a, b, kind)) for a, b in zip(*couples, strict=True)]
    assert result.tolist() == pytest.approx(expected, rel=1e-15, abs=1e-15)


@pytest.mark.parametrize(
    ("a", "b", "iou_value", "giou_value"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1.0, 1.0),
        ([0, 0, 2, 2], [2, 0, 4, 2], 0.0, 0.0),  # touch along a side: the hull has no gap
        ([0, 0, 1, 1], [1, 1, 2, 2], 0.0, -0.5),  # touch in a corner
        ([0, 0, 1, 1], [3, 0, 4, 1], 0.0, -0.5),
        ([0, 0, 4, 4], [1, 1, 3, 3], 0.25, 0.25),
        ([1, 1, 1, 1], [1, 1, 1, 1], 0.0, 0.0),  # no union, no hull
        ([1, 1, 1, 1], [3, 3, 3, 3], 0.0, -1.0),  # no union in a hull
        ([0, 0, 0, 2], [0, 0, 2, 2], 0.0, 0.0),
        ([2, 2, 0, 0], [0, 0, 2, 2], 0.0, 0.0),  # inverted: an empty box
    ],
)
def test_by_hand(device, a, b, iou_value, giou_value):
    for dtype in DTYPES:
        boxes = as_boxes([a, b], dtype)
        for first, second in ((boxes[:1], boxes[1:]), (boxes[1:], boxes[:1])):
            assert iou(device, first, second, "iou").item() == iou_value
            assert iou(device, first, second, "giou").item() == giou_value


def gradients(function, boxes1, boxes2, weight, kind, device="cpu"):
    inputs = [t.clone().to(device).requires_grad_() for t in (boxes1, boxes2)]
    (function(*inputs, kind=kind) * weight.to(device)).sum().backward()
    return [t.grad.cpu() for t in inputs]


@given(pairs(half_pixels), kinds, seeds)
def test_gradient_is_the_reference_autograd(device, couples, kind, seed):
    """Ties are split in halves; lengths at 0, of touching and of empty boxes, pass nothing."""
    boxes1, boxes2 = (as_boxes(b, torch.float64) for b in couples)
    weight = torch.rand(len(boxes1), generator=rng(seed), dtype=torch.float64) - 0.5
    ours = gradients(paired_box_iou, boxes1, boxes2, weight, kind, device)
    theirs = gradients(reference.paired_box_iou, boxes1, boxes2, weight, kind)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@given(seeds, st.integers(0, 6), kinds)
def test_gradcheck(device, seed, n, kind):
    g = rng(seed)
    boxes1, boxes2 = (random_boxes(n, g, extent=20).to(device).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: paired_box_iou(a, b, kind=kind), (boxes1, boxes2), atol=1e-6)


@pytest.mark.parametrize("kind", ["iou", "giou"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_boxes_are_a_maximum(device, kind, dtype):
    boxes = random_boxes(50, rng()).to(dtype)
    assert (iou(device, boxes, boxes, kind) == 1).all()
    for grad in gradients(paired_box_iou, boxes, boxes, torch.ones(50, dtype=dtype), kind, device):
        torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_tied_sides_share_the_gradient(device):
    """b lies in a's left half and shares three sides with it: moving one of two tied sides counts half."""
    a, b = as_boxes([[0, 0, 4, 2]], torch.float64), as_boxes([[0, 0, 2, 2]], torch.float64)
    grad_a, grad_b = gradients(paired_box_iou, a, b, torch.ones(1, dtype=torch.float64), "iou", device)
    # inter 4, union 8, d iou = d inter / 8 - 4 d union / 64
    # a's x2 moves the union by its height, nothing else
    assert grad_a[0, 2].item() == pytest.approx(-4 / 64 * 2)
    # a's x1, tied: d inter = -2 / 2, d area = -2, d union = -2 + 1
    assert grad_a[0, 0].item() == pytest.approx(-1 / 8 + 4 / 64)
    assert grad_b[0, 0].item() == pytest.approx(-1 / 8 - 4 / 64 * (-2 + 1))


@pytest.mark.parametrize("kind", ["iou", "giou"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [15, 16, 17, 63, 64, 65, 128, 200])
def test_a_pair_does_not_see_its_neighbors(device, kind, dtype, n):
    """Pairs are judged in blocks: the same bits as one by one, forward and backward. Half of them share sides."""
    a = random_boxes(n, rng(n))
    b = torch.where(torch.arange(4) % 2 == 0, a, a + 4 * torch.randn(n, 4, generator=rng(n + 1), dtype=torch.float64))
    a, b, grad = a.to(dtype), b.to(dtype), torch.randn(n, generator=rng(n + 2)).to(dtype)

    def both_ways(rows):
        leaves = [t[rows].to(device).requires_grad_() for t in (a, b)]
        result = paired_box_iou(*leaves, kind=kind)
        return [result.detach(), *torch.autograd.grad(result, leaves, grad[rows].to(device))]

    alone = [both_ways(slice(i, i + 1)) for i in range(n)]
    for whole, parts in zip(both_ways(slice(None)), zip(*alone, strict=True), strict=True):
        same_bits(whole, torch.cat(parts))


@pytest.mark.parametrize("kind", ["iou", "giou"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_float32_rounded(device, kind, dtype):
    g = rng(1)
    boxes1, boxes2 = random_boxes(40, g).to(dtype), random_boxes(40, g).to(dtype)
    same_bits(iou(device, boxes1, boxes2, kind), iou(device, boxes1.float(), boxes2.float(), kind).to(dtype))
    weight = torch.rand(40, generator=g).to(dtype)
    half = gradients(paired_box_iou, boxes1, boxes2, weight, kind, device)
    full = gradients(paired_box_iou, boxes1.float(), boxes2.float(), weight.float(), kind, device)
    for a, e in zip(half, full, strict=True):
        same_values(a, e.to(dtype))


@given(seeds, kinds, st.sampled_from([-3, 2, 5]))
def test_scale_and_order(device, seed, kind, exponent):
    g = rng(seed)
    boxes1, boxes2 = random_boxes(10, g), random_boxes(10, g)
    result = iou(device, boxes1, boxes2, kind)
    same_bits(iou(device, boxes2, boxes1, kind), result)
    same_bits(iou(device, boxes1 * 2.0**exponent, boxes2 * 2.0**exponent, kind), result)
    order = torch.randperm(10, generator=g)
    same_bits(iou(device, boxes1[order], boxes2[order], kind), result[order])
    assert (result <= 1).all() and (result >= (0 if kind == "iou" else -1)).all()


@pytest.mark.parametrize("kind", ["iou", "giou"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("side", [0, 1])
def test_the_gradient_of_one_side_alone(device, kind, dtype, side):
    """The same bits as with the other's, which is neither computed nor stored."""
    boxes = [random_boxes(100, rng(s), extent=10).to(dtype) for s in (0, 1)]
    boxes[1][:30, 1:3] = boxes[0][:30, 1:3]  # ties
    weight = torch.rand(100, generator=rng(2)).to(dtype)
    both = gradients(paired_box_iou, *boxes, weight, kind, device)
    boxes = [b.to(device).requires_grad_(s == side) for s, b in enumerate(boxes)]
    (paired_box_iou(*boxes, kind=kind) * weight.to(device)).sum().backward()
    same_bits(boxes[side].grad, both[side])
    assert both[side].abs().sum() > 0 and boxes[1 - side].grad is None
    fixed = [b.detach() for b in boxes]
    backward = torch.ops.mlc_ext.paired_box_iou_backward
    found = backward(weight.to(device), *fixed, kind == "giou", side == 0, side == 1)
    same_bits(found[side], both[side])
    assert found[1 - side].shape == (0, 4)
    assert [g.shape for g in backward(weight.to(device), *fixed, kind == "giou", False, False)] == [(0, 4)] * 2


@pytest.mark.parametrize("stride", [0, 1, 3])
def test_a_gradient_of_any_stride(device, stride):
    """It is read where it lies: one value for all pairs, or a column of a matrix."""
    n = 150
    boxes = [random_boxes(n, rng(s), extent=10).to(device).requires_grad_() for s in (0, 1)]
    values = torch.rand(3 * n, generator=rng(2), dtype=torch.float64).to(device)
    grad = values.as_strided((n,), (stride,))
    result = paired_box_iou(*boxes, kind="giou")
    ours = torch.autograd.grad(result, boxes, grad, retain_graph=True)
    theirs = torch.autograd.grad(result, boxes, grad.contiguous())
    for a, b in zip(ours, theirs, strict=True):
        same_bits(a, b)


def test_no_boxes(device):
    boxes = torch.zeros(0, 4, device=device, requires_grad=True)
    result = paired_box_iou(boxes, boxes.detach(), kind="giou")
    result.sum().backward()
    assert result.shape == (0,) and boxes.grad.shape == (0, 4)


def test_views_and_expanded_gradients(device):
    base1, base2 = (random_boxes(12, rng(s)).to(device) for s in (0, 1))
    turned = base1.t().contiguous().t()[::2].requires_grad_()
    result = paired_box_iou(turned, base2[::2])
    same_bits(result.detach(), paired_box_iou(base1[::2].contiguous(), base2[::2].contiguous()))
    (grad,) = torch.autograd.grad(result, turned, torch.ones((), dtype=torch.float64, device=device).expand(6))
    expected, _ = gradients(paired_box_iou, base1[::2].cpu(), base2[::2].cpu(), torch.ones(6), "iou", device)
    same_bits(grad, expected)


def test_threads_do_not_change_a_bit(threads):
    boxes1, boxes2 = (random_boxes(60_000, rng(s)).float() for s in (0, 1))
    runs = []
    for n in (1, 3):
        threads(n)
        grads = gradients(paired_box_iou, boxes1, boxes2, torch.ones(60_000), "giou")
        runs.append([paired_box_iou(boxes1, boxes2, kind="giou"), *grads])
    for one, three in zip(*runs, strict=True):
        same_bits(one, three)


def test_double_backward_is_refused(device):
    boxes = random_boxes(3, rng()).to(device).requires_grad_()
    (grad,) = torch.autograd.grad(paired_box_iou(boxes, boxes.detach() + 1).sum(), boxes, create_graph=True)
    with pytest.raises(NotImplementedError, match="paired_box_iou: double backward"):
        grad.square().sum().backward()
