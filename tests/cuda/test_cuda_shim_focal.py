"""sigmoid_focal_loss's CUDA device code, run on the CPU through tests/cuda_shim, against the CPU operator.

In the driver a block has 64 threads of one pack (16 bytes) each. float entries are within the two bounds of the
contract (csrc/sigmoid_focal_loss.h): 1e-6 on CPU, twice that on CUDA. Sums are added in another order.
"""

import pytest
import torch
from test_cuda_shim import call, generator, library, pytestmark, same_bits  # noqa: F401

import mlc_ext


def shim_focal(library, logits, labels, weights, alpha, gamma, blocks, scale):  # noqa: F811
    n, c = logits.shape
    grad, partial = logits.new_tensor(scale), torch.full((blocks,), 7.0, dtype=torch.float64)
    total, gradient = logits.new_full((), -7), torch.full_like(logits, -7)
    function = getattr(library("driver_focal"), f"shim_focal_{'float' if logits.dtype == torch.float32 else 'double'}")
    call(function, logits, labels, weights, n, c, alpha, gamma, blocks, grad, partial, total, gradient)
    return total, gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [2.0, 1.5])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(
    ("n", "c", "blocks"), [(40, 80, 3), (33, 4, 1), (70, 5, 2), (300, 1, 2), (1, 3, 1), (5, 1026, 4), (64, 20, 5)]
)
def test_focal_loss(library, dtype, gamma, weighted, n, c, blocks):  # noqa: F811
    """Rows of whole packs and others, fewer and more packs than threads, a last pack that is not full."""
    g = generator(n + c)
    logits = (3 * torch.randn(n, c, generator=g)).to(dtype)
    labels = torch.randint(-1, c + 1, (n,), generator=g)
    weights = torch.rand(n, generator=g).to(dtype)
    weights = weights.where(weights > 0.2, 0) if weighted else None
    off = (labels < 0) | (weights == 0) if weighted else labels < 0
    logits[off] = float("nan")
    alpha, scale = 0.3, 0.5
    leaf = logits.clone().requires_grad_()
    expected = mlc_ext.sigmoid_focal_loss(leaf, labels, weights, alpha, gamma)
    (expected_gradient,) = torch.autograd.grad(scale * expected, leaf)
    total, gradient = shim_focal(library, logits, labels, weights, alpha, gamma, blocks, scale)
    torch.testing.assert_close(total, expected.detach(), rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=3e-6 if dtype == torch.float32 else 1e-14, atol=0)
    assert (gradient[off] == 0).all()


def test_labels_out_of_range(library):  # noqa: F811
    """What the CPU refuses: below -1 is ignored, above C is background."""
    logits = torch.randn(6, 8, generator=generator(0))
    wild = torch.tensor([-2, -(2**63), 9, 2**63 - 1, 2**32 + 1, 3])
    total, gradient = shim_focal(library, logits, wild, None, 0.25, 2.0, 1, 1.0)
    expected, expected_gradient = shim_focal(
        library, logits, torch.tensor([-1, -1, 0, 0, 0, 3]), None, 0.25, 2.0, 1, 1.0
    )
    same_bits(total, expected)
    same_bits(gradient, expected_gradient)
