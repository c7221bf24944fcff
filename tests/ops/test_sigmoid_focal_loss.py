"""sigmoid_focal_loss at the edges of its kernels: blocks, threads, layouts, types and the range of float32.

What it computes is compared with torchvision's formula in test_losses.py.
"""

import math

import pytest
import torch
from comparisons import rng, same_bits

from mlc_ext import reference, sigmoid_focal_loss

GAMMAS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


def with_gradient(loss, logits, *rest, **options):
    leaf = logits.detach().clone().requires_grad_()
    total = loss(leaf, *rest, **options)
    return total.detach(), torch.autograd.grad(total, leaf)[0]


def case(n, c, seed=0, dtype=torch.float32):
    g = rng(seed)
    weights = torch.rand(n, generator=g)
    labels = torch.randint(-1, c + 1, (n,), generator=g)
    return (3 * torch.randn(n, c, generator=g)).to(dtype), labels, weights.where(weights > 0.2, 0)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("label", [0, 1])
def test_every_entry_of_float32(gamma, label):
    """As exact as in the contract, from -87 to 87."""
    x = torch.cat([torch.linspace(-87, 87, 801), torch.linspace(-1, 1, 401), torch.tensor([0.0, -0.0, 1e-30])])[:, None]
    labels = torch.tensor([label])
    exact = [with_gradient(reference.sigmoid_focal_loss, v[None].double(), labels, None, 0.25, gamma) for v in x]
    found = [with_gradient(sigmoid_focal_loss, v[None], labels, None, 0.25, gamma) for v in x]
    z = (-x if label else x)[:, 0].double()
    most = 1e-6 if gamma == 2 else (1 + gamma * torch.nn.functional.softplus(-z)) * 3e-7
    for ours, theirs in zip(zip(*found, strict=True), zip(*exact, strict=True), strict=True):
        ours, theirs = (torch.stack([v.flatten()[0] for v in values]).double() for values in (ours, theirs))
        assert ((ours - theirs).abs() <= most * theirs.abs() + 1e-37).all()


@pytest.mark.parametrize(("n", "c"), [(1, 1), (1, 1024), (1, 1025), (3, 700), (2048, 1), (700, 3), (513, 4), (2, 5000)])
@pytest.mark.parametrize("gamma", [2.0, 1.5])
def test_rows_that_end_where_blocks_do_and_do_not(n, c, gamma):
    logits, labels, weights = case(n, c)
    ours = with_gradient(sigmoid_focal_loss, logits, labels, weights, gamma=gamma)
    exact = with_gradient(reference.sigmoid_focal_loss, logits.double(), labels, weights.double(), gamma=gamma)
    assert n == 1 or ours[0] > 0
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(ours[1].double(), exact[1], rtol=5e-6, atol=1e-12)


def test_threads_do_not_change_a_bit(threads):
    logits, labels, weights = case(3001, 37)
    results = []
    for n in (1, 2, 3, 4):
        threads(n)
        results.append(with_gradient(sigmoid_focal_loss, logits, labels, weights))
    for found in results[1:]:
        for ours, first in zip(found, results[0], strict=True):
            same_bits(ours, first)


def test_a_small_entry_is_not_lost_beside_a_large_one():
    """The class's column is no difference of sums: the row's other entries keep their digits."""
    logits = torch.tensor([[60.0, -12.0, -12.0]])
    got = sigmoid_focal_loss(logits, torch.tensor([1]))
    exact = reference.sigmoid_focal_loss(logits.double(), torch.tensor([1]))
    assert 0 < exact < 1e-15
    torch.testing.assert_close(got.double(), exact, rtol=2e-6, atol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rows_that_do_not_count_are_not_read(value):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        logits, labels, weights = case(50, 7, dtype=dtype)
        off = (labels < 0) | (weights == 0)
        assert 0 < off.sum() < 50
        clean = with_gradient(sigmoid_focal_loss, logits.masked_fill(off[:, None], 0), labels, weights)
        found = with_gradient(sigmoid_focal_loss, logits.masked_fill(off[:, None], value), labels, weights)
        for ours, theirs in zip(found, clean, strict=True):
            same_bits(ours, theirs)
        assert (found[1][off] == 0).all()


def test_a_nan_logit_is_not_hidden():
    for gamma in (2.0, 1.5):
        for label in (0, 1):
            total, gradient = with_gradient(
                sigmoid_focal_loss, torch.tensor([[math.nan, 0.5]]), torch.tensor([label]), gamma=gamma
            )
            assert total.isnan() and gradient.isnan().tolist() == [[True, False]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_have_the_bits_of_float32(dtype):
    logits, labels, weights = case(60, 11, dtype=dtype)
    total, gradient = with_gradient(sigmoid_focal_loss, logits, labels, weights.to(dtype))
    want, wide = with_gradient(sigmoid_focal_loss, logits.float(), labels, weights.to(dtype).float())
    same_bits(total, want)
    same_bits(gradient, wide.to(dtype))


def test_weights_of_any_type_are_constants():
    logits, labels, weights = case(40, 5)
    for given in (weights > 0.5, weights.double(), weights.bfloat16(), (4 * weights).int()):
        same_bits(sigmoid_focal_loss(logits, labels, given), sigmoid_focal_loss(logits, labels, given.float()))
    leaves = [logits.clone().requires_grad_(), weights.clone().requires_grad_()]
    sigmoid_focal_loss(leaves[0], labels, leaves[1]).backward()
    assert leaves[0].grad is not None and leaves[1].grad is None


def test_the_first_wrong_label_is_named():
    logits, labels, _ = case(40, 5)
    labels[[7, 30]] = torch.tensor([6, -2])
    with pytest.raises(ValueError, match=r"^sigmoid_focal_loss: labels must be in -1\.\.5, got 6 in row 7$"):
        sigmoid_focal_loss(logits, labels)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_logits_masked_with_minus_infinity(gamma, dtype):
    """A background entry of -inf costs nothing, whatever gamma is."""
    logits = torch.tensor([[-math.inf, 0.5]], dtype=dtype)
    labels = torch.tensor([0])
    total, gradient = with_gradient(sigmoid_focal_loss, logits, labels, None, 0.25, gamma)
    alone, of_the_other = with_gradient(sigmoid_focal_loss, logits[:, 1:], labels, None, 0.25, gamma)
    assert torch.isfinite(total) and total == alone
    assert gradient.tolist() == [[0.0, of_the_other.item()]]


def test_weights_must_be_real():
    logits, labels, weights = case(3, 2)
    with pytest.raises(TypeError, match="weights must be real, got torch.complex64"):
        sigmoid_focal_loss(logits, labels, weights.to(torch.complex64))
