"""iou_loss's CUDA device code, run on the CPU through tests/cuda_shim, against the CPU operator."""

import pytest
import torch
from test_cuda_shim import call, generator, library, pytestmark, random_boxes, same_bits  # noqa: F401

import mlc_ext


@pytest.mark.parametrize(("index", "kind"), list(enumerate(("iou", "linear_iou", "giou"))))
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("n", "blocks"), [(0, 1), (1, 1), (64, 1), (65, 2), (500, 3)])
def test_iou_loss(library, index, kind, weighted, n, blocks):  # noqa: F811
    """Fewer and more rows than threads of the grid; gradients have the CPU's bits, sums another order."""
    g = generator(n)
    boxes, targets = random_boxes(n, g), random_boxes(n, g)
    targets[: n // 2] = boxes[: n // 2] + 1
    weights, scale = None, torch.tensor(0.5)
    if weighted:
        weights = torch.rand(n, generator=g)
        weights = weights.where(weights > 0.4, 0)
        boxes[weights == 0] = float("nan")
    leaf = boxes.clone().requires_grad_()
    expected = mlc_ext.iou_loss(leaf, targets, weights, kind, 0.02)
    (expected_gradient,) = torch.autograd.grad(expected, leaf, scale)
    total, gradient = torch.tensor(-7.0), torch.full_like(boxes, -7)
    partial = torch.full((blocks,), 7.0, dtype=torch.float64)
    function = library("driver_iou_loss").shim_iou_loss
    call(function, boxes, targets, weights, n, index, 0.02, blocks, scale, partial, total, gradient)
    torch.testing.assert_close(total, expected.detach(), rtol=1e-6, atol=0)
    same_bits(gradient, expected_gradient)
