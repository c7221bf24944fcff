"""box_iou against its reference, rational arithmetic on integer boxes, and autograd."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DTYPES,
    as_boxes,
    box_lists,
    half_pixels,
    on,
    random_boxes,
    rng,
    same_bits,
    same_values,
    seeds,
)

from mlc_ext import box_iou, paired_box_iou, reference


def exact_iou(a, b) -> Fraction:
    def length(low, high):
        return max(Fraction(high) - Fraction(low), Fraction(0))

    inter = length(max(a[0], b[0]), min(a[2], b[2])) * length(max(a[1], b[1]), min(a[3], b[3]))
    union = length(a[0], a[2]) * length(a[1], a[3]) + length(b[0], b[2]) * length(b[1], b[3]) - inter
    return inter / union if union > 0 else Fraction(0)


def iou(device, boxes1, boxes2):
    result = box_iou(*on(device, boxes1, boxes2))
    assert result.device.type == device
    return result.cpu()


@given(box_lists(), box_lists(), st.sampled_from(DTYPES))
def test_reference(device, boxes1, boxes2, dtype):
    boxes1, boxes2 = as_boxes(boxes1, dtype), as_boxes(boxes2, dtype)
    same_values(iou(device, boxes1, boxes2), reference.box_iou(boxes1, boxes2))


integer_box = st.tuples(*[st.integers(-20, 40)] * 4)


@given(st.lists(integer_box, max_size=6), st.lists(integer_box, max_size=6))
def test_exact_on_integer_boxes(device, boxes1, boxes2):
    """Areas of small integer boxes are exact, so the one division is all that rounds."""
    result = iou(device, as_boxes(boxes1, torch.float64), as_boxes(boxes2, torch.float64))
    assert result.tolist() == [[float(exact_iou(a, b)) for b in boxes2] for a in boxes1]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1.0),
        ([0, 0, 2, 2], [1, 0, 3, 2], 1 / 3),
        ([0, 0, 2, 2], [2, 0, 4, 2], 0.0),  # touch along a side
        ([0, 0, 2, 2], [2, 2, 4, 4], 0.0),  # touch in a corner
        ([0, 0, 4, 4], [1, 1, 2, 2], 1 / 16),
        ([1, 1, 1, 1], [1, 1, 1, 1], 0.0),  # no area, no union
        ([0, 0, 2, 0], [0, 0, 2, 2], 0.0),
        ([2, 2, 0, 0], [0, 0, 2, 2], 0.0),  # inverted on both axes: empty, not a negative area
        ([2, 0, 0, 2], [2, 0, 0, 2], 0.0),
    ],
)
def test_by_hand(device, a, b, expected):
    for dtype in DTYPES:
        boxes = as_boxes([a, b], dtype)
        both = iou(device, boxes[:1], boxes[1:]), iou(device, boxes[1:], boxes[:1])
        for result in both:
            same_bits(result, torch.tensor([[expected]], dtype=torch.float64).to(dtype))


@given(seeds, st.sampled_from(DTYPES))
def test_properties(device, seed, dtype):
    g = rng(seed)
    boxes = random_boxes(9, g).to(dtype)
    result = iou(device, boxes, boxes)
    same_bits(result, result.t().contiguous())
    assert (result.diagonal() == 1).all() and (result >= 0).all() and (result <= 1).all()
    order = torch.randperm(9, generator=g)
    same_bits(iou(device, boxes[order], boxes), result[order])
    same_bits(iou(device, boxes * 4, boxes * 4), result)
    same_bits(torch.cat([iou(device, boxes[:4], boxes), iou(device, boxes[4:], boxes)]), result)
    pairs = [boxes.repeat_interleave(9, 0), boxes.repeat(9, 1)]
    same_bits(paired_box_iou(*on(device, *pairs)).cpu(), result.flatten())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_float32_rounded(device, dtype):
    boxes1, boxes2 = (random_boxes(20, rng(s)).to(dtype) for s in (0, 1))
    same_bits(iou(device, boxes1, boxes2), iou(device, boxes1.float(), boxes2.float()).to(dtype))


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0), (1, 1), (3, 70_001), (20_011, 3), (333, 517)])
def test_shapes(device, threads, n, m):
    threads(2)
    boxes1, boxes2 = random_boxes(n, rng(0)).float(), random_boxes(m, rng(1)).float()
    result = iou(device, boxes1, boxes2)
    assert result.shape == (n, m)
    same_values(result, reference.box_iou(boxes1, boxes2))


def test_views(device):
    (base,) = on(device, random_boxes(12, rng()))
    turned = base.t().contiguous().t()  # column-major
    assert not turned.is_contiguous()
    same_bits(box_iou(turned[::2], base[:1].expand(5, 4)), box_iou(base[::2].clone(), base[:1].repeat(5, 1)))
    negated = torch.complex(base, -base).conj().imag  # lazily negated: its memory holds -base
    assert negated.is_neg()
    same_bits(box_iou(negated, base), box_iou(base, base))


@pytest.mark.parametrize(("n", "m"), [(4, 5), (1, 1), (0, 3), (3, 0)])
def test_gradcheck(device, n, m):
    g = rng(3)
    boxes1, boxes2 = (random_boxes(k, g, extent=10).to(device).requires_grad_() for k in (n, m))
    assert torch.autograd.gradcheck(box_iou, (boxes1, boxes2), atol=1e-6)


@given(box_lists(half_pixels, max_size=5), box_lists(half_pixels, max_size=5), seeds)
def test_gradient_is_the_reference_autograd(device, boxes1, boxes2, seed):
    """Ties are split in halves; lengths at 0, of touching and of empty boxes, pass nothing."""
    boxes1, boxes2 = as_boxes(boxes1, torch.float64), as_boxes(boxes2, torch.float64)
    weight = torch.rand(len(boxes1), len(boxes2), generator=rng(seed), dtype=torch.float64)

    def gradients(function, where):
        inputs = [t.clone().to(where).requires_grad_() for t in (boxes1, boxes2)]
        (function(*inputs) * weight.to(where)).sum().backward()
        return [t.grad.cpu() for t in inputs]

    ours, theirs = gradients(box_iou, device), gradients(reference.box_iou, "cpu")
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_gradient_of_one_side_only(device):
    boxes1, boxes2 = (random_boxes(4, rng(s)).to(device) for s in (0, 1))
    boxes1.requires_grad_()
    box_iou(boxes1, boxes2).sum().backward()
    assert boxes1.grad.abs().sum() > 0 and boxes2.grad is None


def test_double_backward_is_refused(device):
    boxes = random_boxes(3, rng()).to(device).requires_grad_()
    (grad,) = torch.autograd.grad(box_iou(boxes, boxes.detach() + 1).sum(), boxes, create_graph=True)
    with pytest.raises(NotImplementedError, match="paired_box_iou: double backward"):
        grad.square().sum().backward()
