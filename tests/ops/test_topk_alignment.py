"""topk_alignment against the reference, which stores and sorts the matrix."""

from __future__ import annotations

import pytest
import torch
from comparisons import random_boxes, rng, same_bits

import mlc_ext
from mlc_ext import reference, topk_alignment

NAN, INF = float("nan"), float("inf")


def batch(seed, num_priors=300, num_gts=20, images=3, classes=7, extent=60, dtype=torch.float32):
    """Boxes, gts, their images, logits, columns."""
    g = rng(seed)
    boxes = random_boxes(images * num_priors, g, extent=extent, size=20).to(dtype).view(images, num_priors, 4)
    gts = random_boxes(num_gts, g, extent=extent, size=25).to(dtype)
    image, columns = (torch.randint(0, n, (num_gts,), generator=g) for n in (images, classes))
    return boxes, gts, image, 2 * torch.randn(images, num_priors, classes, generator=g, dtype=torch.float64), columns


def check(found, expected, rtol=1e-5):
    """Equal, except for the order of metrics that differ by a rounding."""
    torch.testing.assert_close(found.metric, expected.metric, rtol=rtol, atol=0)
    assert torch.equal(found.prior < 0, expected.prior < 0)
    assert torch.equal(found.prior.sort(1).values, expected.prior.sort(1).values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [{}, {"alpha": 0.5, "beta": 4.0}, {"alpha": 0.0, "beta": 2.5}, {"beta": 17.0}])
@pytest.mark.parametrize("k", [1, 13, 400])
def test_equals_the_reference(device, dtype, rule, k):
    boxes, gts, image, logits, columns = batch(k, dtype=dtype)
    logits = logits.to(dtype)
    expected = reference.topk_alignment(boxes, gts, image, k, logits=logits, columns=columns, **rule)
    inputs = [t.to(device) for t in (boxes, gts, image)]
    found = topk_alignment(*inputs, k, logits=logits.to(device), columns=columns.to(device), **rule)
    check(type(found)(*(t.cpu() for t in found)), expected)
    assert (expected.prior >= 0).any() and (k == 1 or (expected.prior < 0).any())


@pytest.mark.parametrize("threads_used", [1, 3])
def test_many_priors_and_gts(threads, threads_used):
    """Blocks that a gt does not overlap are skipped; the work is divided over threads."""
    threads(threads_used)
    g = rng(4)
    corner = torch.cartesian_prod(torch.arange(0.0, 640, 8), torch.arange(0.0, 640, 8))
    boxes = torch.cat((corner, corner + 24), 1) + torch.randn(len(corner), 4, generator=g)
    gts = random_boxes(70, g, extent=640, size=90).float()
    image = torch.arange(70) % 2
    boxes = torch.stack((boxes, boxes.flip(0)))
    logits, columns = torch.randn(2, len(corner), 9, generator=g), torch.arange(70) % 9
    found = topk_alignment(boxes, gts, image, 9, logits=logits, columns=columns)
    check(found, reference.topk_alignment(boxes, gts, image, 9, logits=logits, columns=columns))
    by_iou = topk_alignment(boxes, gts, image, 50, beta=1.0)
    expected = reference.topk_alignment(boxes, gts, image, 50, beta=1.0)
    for ours, theirs in zip(by_iou, expected, strict=True):
        same_bits(ours, theirs)


def test_equal_metrics_come_in_the_order_of_priors(device):
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2], [0, 0, 2, 4], [0, 0, 4, 4]]).repeat(40, 1)[None]
    gts = torch.tensor([[0.0, 0, 4, 4]])
    image = torch.zeros(1, dtype=torch.int64)
    found = topk_alignment(*(t.to(device) for t in (boxes, gts, image)), 83, beta=1.0)
    whole = [i for i in range(160) if i % 4 in (0, 3)]
    halves = [i for i in range(160) if i % 4 in (1, 2)]
    assert found.prior[0].tolist() == whole + halves[:3]
    assert found.metric[0].tolist() == [1.0] * 80 + [0.5] * 3


@pytest.mark.parametrize("k", [9, 64, 1000, 5000])
@pytest.mark.parametrize("rising", [False, True])
def test_large_k_and_ties(device, k, rising):
    """More priors than k in any order, with equal IoUs, some of which are among the k and some are not."""
    g = rng(k)
    height = torch.randint(1, 61, (4000,), generator=g).float()
    boxes = torch.tensor([0.0, 0, 60, 0]).repeat(1, len(height), 1)
    boxes[0, :, 3] = height.sort().values if rising else height
    gts, image = torch.tensor([[0.0, 0, 60, 60]]), torch.zeros(1, dtype=torch.int64)
    found = topk_alignment(*(t.to(device) for t in (boxes, gts, image)), k, beta=1.0)
    for ours, theirs in zip(found, reference.topk_alignment(boxes, gts, image, k, beta=1.0), strict=True):
        same_bits(ours, theirs)


@pytest.mark.parametrize("beta", [0.1, 15.0, 16.0, 17.0, 100.0])
def test_powers_of_small_ious(device, beta):
    """Down to metrics that are no normal numbers, in blocks of IoUs that differ by a rounding; k leaves some out."""
    side = torch.cat([10.0 ** torch.linspace(-4, 1, 300), 5 + torch.arange(300) * 2.0**-21])
    boxes = torch.stack((0 * side, 0 * side, side, torch.full_like(side, 10)), 1)[None]
    gts, image = torch.tensor([[0.0, 0, 10, 10]]), torch.zeros(1, dtype=torch.int64)
    found = topk_alignment(*(t.to(device) for t in (boxes, gts, image)), 500, beta=beta).metric.cpu()
    expected = reference.topk_alignment(boxes, gts, image, 500, beta=beta).metric
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-44)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_powers_of_small_scores(device, dtype):
    """A score that float32 cannot hold has a power that it can."""
    boxes = torch.tensor([0.0, 0, 4, 4], dtype=dtype).repeat(1, 4, 1)
    gts, image = boxes[0, :1], torch.zeros(1, dtype=torch.int64)
    logits = torch.tensor([-90.0, -110, -300, 2], dtype=dtype).view(1, 4, 1)
    moved = [t.to(device) for t in (boxes, gts, image, logits)]
    found = topk_alignment(*moved[:3], 4, logits=moved[3], columns=moved[2], alpha=0.1)
    expected = reference.topk_alignment(boxes, gts, image, 4, logits=logits, columns=image, alpha=0.1)
    check(type(found)(*(t.cpu() for t in found)), expected, rtol=1e-4)
    assert found.prior.tolist() == [[3, 0, 1, 2]] and found.metric.min() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(device, dtype):
    boxes, gts, image, logits, columns = batch(2)
    boxes, gts, logits = boxes.to(dtype), gts.to(dtype), logits.to(dtype)
    moved = [t.to(device) for t in (boxes, gts, image, logits, columns)]
    found = topk_alignment(*moved[:3], 5, logits=moved[3], columns=moved[4])
    wide = topk_alignment(boxes.float(), gts.float(), image, 5, logits=logits.float(), columns=columns)
    assert found.metric.dtype == dtype and torch.equal(found.prior.cpu(), wide.prior)
    torch.testing.assert_close(found.metric.cpu(), wide.metric.to(dtype))
    mixed = topk_alignment(boxes.float(), gts.float(), image, 5, logits=logits, columns=columns)  # half logits alone
    same_bits(mixed.metric, wide.metric)


def test_logits_that_are_not_finite(device):
    """NaN and -inf are left out, +inf is a score of 1."""
    boxes = torch.tensor([0.0, 0, 4, 4]).repeat(1, 5, 1)
    logits = torch.tensor([NAN, -INF, INF, 0.0, -300.0]).view(1, 5, 1)
    gts, image = torch.tensor([[0.0, 0, 4, 4]]), torch.zeros(1, dtype=torch.int64)
    boxes, gts, image, logits = (t.to(device) for t in (boxes, gts, image, logits))
    found = topk_alignment(boxes, gts, image, 4, logits=logits, columns=image)
    assert found.prior.tolist() == [[2, 3, -1, -1]] and found.metric.tolist() == [[1.0, 0.5, 0.0, 0.0]]


def test_boxes_that_are_not_finite_change_no_other(device):
    boxes, gts, image, *_ = batch(5, num_priors=130)
    usual = topk_alignment(*(t.to(device) for t in (boxes, gts, image)), 200, beta=1.0)
    boxes = torch.cat((boxes, torch.full((3, 2, 4), NAN), torch.full((3, 1, 4), INF)), 1)
    found = topk_alignment(*(t.to(device) for t in (boxes, gts, image)), 200, beta=1.0)
    for row, expected in zip(found.prior.tolist(), usual.prior.tolist(), strict=True):
        assert [i for i in row if 0 <= i < 130] == [i for i in expected if i >= 0]


def test_inverted_and_empty_boxes_have_no_priors(device):
    gts = torch.tensor([[4.0, 4, 0, 0], [1, 1, 1, 3], [0, 0, 4, 4]], device=device)
    boxes = torch.tensor([[[0.0, 0, 4, 4], [4, 4, 0, 0], [2, 2, 2, 2]]], device=device)
    found = topk_alignment(boxes, gts, torch.zeros(3, dtype=torch.int64, device=device), 2)
    assert found.prior.tolist() == [[-1, -1], [-1, -1], [0, -1]]


@pytest.mark.parametrize(("images", "num_priors", "num_gts"), [(1, 0, 3), (2, 5, 0), (0, 5, 0), (3, 0, 0)])
def test_empty_inputs(device, images, num_priors, num_gts):
    boxes, gts = torch.zeros(images, num_priors, 4, device=device), torch.ones(num_gts, 4, device=device)
    image = torch.zeros(num_gts, dtype=torch.int64, device=device)
    logits = torch.zeros(images, num_priors, 2, device=device)
    found = topk_alignment(boxes, gts, image, 4, logits=logits, columns=image)
    assert found.metric.shape == found.prior.shape == (num_gts, 4)
    assert (found.prior == -1).all() and not found.metric.any()


def test_strided_inputs(device):
    boxes, gts, image, logits, columns = (t.to(device) for t in batch(6, images=2))
    logits = logits.float()
    expected = topk_alignment(boxes, gts, image, 6, logits=logits, columns=columns)
    wide = torch.stack((boxes, boxes), -1)[..., 1]
    channels = logits.permute(0, 2, 1).contiguous().permute(0, 2, 1)
    found = topk_alignment(wide, gts.T.contiguous().T, image, 6, logits=channels, columns=columns)
    for ours, theirs in zip(found, expected, strict=True):
        same_bits(ours, theirs)


def test_the_result_has_no_gradient():
    boxes, gts, image, logits, columns = batch(1)
    boxes.requires_grad_()
    found = topk_alignment(boxes, gts, image, 3, logits=logits.float().requires_grad_(), columns=columns)
    assert not found.metric.requires_grad and isinstance(found, mlc_ext.TopkAlignment)
