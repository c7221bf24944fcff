"""quality_focal_loss and varifocal_loss against their formulas, entry by entry, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_ext import losses

LOSSES = {"quality_focal": losses.quality_focal_loss, "varifocal": losses.varifocal_loss}
both = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def quality_focal_entry(x, q, beta=2.0):
    """GFL's Eq. 4."""
    p = math.exp(log_sigmoid(x))
    return -(abs(q - p) ** beta) * ((1 - q) * log_sigmoid(-x) + q * log_sigmoid(x))


def varifocal_entry(x, q, alpha=0.75, gamma=2.0):
    """VarifocalNet's Eq. 2."""
    if q > 0:
        return -q * (q * log_sigmoid(x) + (1 - q) * log_sigmoid(-x))
    return -alpha * math.exp(log_sigmoid(x)) ** gamma * log_sigmoid(-x)


def by_formula(entry, logits, labels, quality, weights, **options):
    total = 0.0
    for row, label, q, weight in zip(*(x.tolist() for x in (logits, labels, quality, weights)), strict=True):
        if label >= 0:
            total += weight * sum(entry(x, q if c + 1 == label else 0.0, **options) for c, x in enumerate(row))
    return total


def random_case(n, c, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, c, generator=g, dtype=dtype) * 4
    quality = torch.rand(n, generator=g, dtype=dtype) * (torch.arange(n) % 4 > 0)  # some are exactly 0
    return logits, torch.randint(-1, c + 1, (n,), generator=g), quality, torch.rand(n, generator=g, dtype=dtype)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**31), st.integers(0, 12), st.integers(1, 5), st.sampled_from([1.0, 1.5, 2.0, 3.0]), st.floats(0, 1)
)
def test_formulas(seed, n, c, exponent, alpha):
    case = random_case(n, c, seed)
    want = by_formula(quality_focal_entry, *case, beta=exponent)
    assert losses.quality_focal_loss(*case, beta=exponent).item() == pytest.approx(want, rel=1e-12, abs=1e-14)
    want = by_formula(varifocal_entry, *case, alpha=alpha, gamma=exponent)
    found = losses.varifocal_loss(*case, alpha=alpha, gamma=exponent)
    assert found.item() == pytest.approx(want, rel=1e-12, abs=1e-14)


def test_the_papers_exponents_are_the_defaults():
    case = random_case(20, 3, 1)
    assert losses.quality_focal_loss(*case).item() == pytest.approx(by_formula(quality_focal_entry, *case), rel=1e-12)
    assert losses.varifocal_loss(*case).item() == pytest.approx(by_formula(varifocal_entry, *case), rel=1e-12)


@both
def test_gradients(loss):
    logits, labels, quality, weights = random_case(12, 3, 2)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, quality, weights), (logits,))
    attached = quality.requires_grad_()
    assert torch.autograd.grad(loss(logits, labels, attached), attached, allow_unused=True) == (None,)


@both
def test_the_lowest_loss_is_at_the_quality(loss):
    """What both losses are for: a positive's score that equals its quality has no slope."""
    quality = torch.tensor([0.2, 0.7])
    logits = quality.logit()[:, None].requires_grad_()
    (slope,) = torch.autograd.grad(loss(logits, torch.tensor([1, 1]), quality), logits)
    assert slope.abs().max() < 1e-6
    for shift in (-0.5, 0.5):
        moved = (logits.detach() + shift).requires_grad_()
        (slope,) = torch.autograd.grad(loss(moved, torch.tensor([1, 1]), quality), moved)
        assert (slope * shift > 0).all()


def test_hard_labels_of_quality_focal_are_the_focal_loss():
    logits, labels, _, weights = random_case(30, 4, 3)
    want = 2 * losses.sigmoid_focal_loss(logits, labels, weights, alpha=0.5, gamma=2.0)
    ones = torch.ones(30, dtype=torch.float64)
    torch.testing.assert_close(losses.quality_focal_loss(logits, labels, ones, weights), want)


@both
def test_ignored_and_unselected_rows_may_hold_anything(loss):
    logits, labels, quality, weights = random_case(30, 3, 5, torch.float32)
    weights[::3] = 0
    counted = (labels >= 0) & (weights > 0)
    assert 0 < counted.sum() < 30 and (labels == 0).any()
    want = loss(logits[counted], labels[counted], quality[counted], weights[counted])
    for value in (math.inf, -math.inf, math.nan):
        bad = logits.masked_fill(~counted[:, None], value).requires_grad_()
        bad_quality = quality.masked_fill(~counted | (labels <= 0), math.nan)  # not read for background either
        total = loss(bad, labels, bad_quality, weights.masked_fill(labels < 0, math.nan))
        torch.testing.assert_close(total, want)
        (gradient,) = torch.autograd.grad(total, bad)
        assert (gradient[~counted] == 0).all() and (gradient[counted].abs() > 0).any()
    torch.testing.assert_close(
        loss(logits, labels, quality, counted), loss(logits[counted], labels[counted], quality[counted])
    )


@both
def test_extreme_logits_and_half_precision(loss):
    extremes = torch.tensor([0.0, 1e-8, 15.0, 21.0, 60.0, 88.0, 104.0, 500.0, 3e4])
    column = torch.cat((extremes, -extremes))[:, None]
    for label in (0, 1):
        labels, quality = torch.full((len(column),), label), torch.full((len(column),), 0.5)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            half = column.to(dtype).requires_grad_()
            for autocast in (False, True):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    total = loss(half, labels, quality)
                assert total.dtype == torch.float32
                torch.testing.assert_close(total.double(), loss(half.double(), labels, quality), rtol=1e-5, atol=0)
            (slope,) = torch.autograd.grad(total, half)
            assert slope.dtype == dtype and slope.isfinite().all()


@both
def test_nothing_to_learn_from_is_zero_with_a_gradient(loss):
    for n, label in ((0, 0), (4, -1)):
        logits = torch.randn(n, 3, requires_grad=True)
        total = loss(logits, torch.full((n,), label), torch.ones(n))
        assert total.shape == () and total.item() == 0
        total.backward()
        assert logits.grad.shape == (n, 3) and not logits.grad.any()


@both
def test_compiles_whole(loss):
    logits, labels, quality, weights = random_case(20, 3, 6, torch.float32)
    logits.requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got, want = (f(logits, labels, quality, weights) for f in (compiled, loss))
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(*(torch.autograd.grad(total, logits)[0] for total in (got, want)))


@both
def test_refuses(loss):
    given = {"logits": torch.zeros(2, 3), "labels": torch.tensor([0, 1]), "quality": torch.ones(2)}
    for wrong in (4, -2):
        with pytest.raises(ValueError, match=rf"labels must be in -1\.\.3, got {wrong}"):
            loss(**given | {"labels": torch.tensor([0, wrong])})
    for change, error, words in (
        ({"logits": torch.zeros(3)}, ValueError, r"\[N, C\] with C >= 1, got \[3\]"),
        ({"logits": torch.zeros(2, 3).long()}, TypeError, "logits must be floating point, got torch.int64"),
        ({"labels": torch.tensor([0, 1]).int()}, TypeError, "labels must be int64, got torch.int32"),
        ({"labels": torch.tensor([0])}, ValueError, r"labels must have shape \[2\], got \[1\]"),
        ({"quality": torch.ones(2, 1)}, ValueError, r"quality must have shape \[2\], got \[2, 1\]"),
        ({"quality": None}, TypeError, "quality must be a Tensor, got NoneType"),
        ({"weights": torch.ones(3)}, ValueError, r"weights must have shape \[2\], got \[3\]"),
    ):
        with pytest.raises(error, match=words):
            loss(**given | change)


def test_refuses_options():
    case = random_case(2, 3, 0)
    for value in (0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"beta must be finite and at least 1, got {value}"):
            losses.quality_focal_loss(*case, beta=value)
        with pytest.raises(ValueError, match=f"gamma must be finite and at least 1, got {value}"):
            losses.varifocal_loss(*case, gamma=value)
    with pytest.raises(ValueError, match="alpha must be finite and not negative, got -1"):
        losses.varifocal_loss(*case, alpha=-1)
