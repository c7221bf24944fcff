"""segmented_otsu against its reference (every bit), exact rational arithmetic, scikit-image, symmetries."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import DTYPES, as_tensors, dtypes, on, rng, same_bits, seeds, segments, value_pools

from mlc_ext import reference, segmented_otsu

NAN = float("nan")


def otsu(device, values, ids, num_segments, **options):
    result = segmented_otsu(*on(device, values, ids), num_segments, **options)
    assert result.device.type == device
    return result.cpu()


def one_group(device, values, dtype=torch.float64, **options):
    """The threshold of a single group, as a Python float."""
    values = torch.as_tensor(values, dtype=torch.float64).to(dtype)
    return otsu(device, values, torch.zeros(len(values), dtype=torch.int64), 1, **options).item()


def exact_cuts(values: list[float]) -> list[tuple[Fraction, float]]:
    """(between-class variance up to n^2, largest value below) of every cut, ascending, exactly."""
    ordered = sorted(values)
    exact = [Fraction(v) for v in ordered]
    n, total, below, cuts = len(ordered), sum(exact), Fraction(0), []
    for i in range(1, n):
        below += exact[i - 1]
        if exact[i - 1] != exact[i]:
            cuts.append(((n * below - i * total) ** 2 / (i * (n - i)), ordered[i - 1]))
    return cuts


@given(segments(), dtypes, st.sampled_from([None, 2, 7, 256]))
def test_reference(device, case, dtype, bins):
    values, ids, k = case
    values, ids = as_tensors(values, ids, dtype)
    same_bits(otsu(device, values, ids, k, bins=bins), reference.segmented_otsu(values, ids, k, bins=bins))


@given(st.lists(value_pools.flatmap(lambda pool: pool), min_size=2, max_size=40))
def test_exact_arithmetic(device, values):
    """No cut is better, by more than rounding, than the one that was chosen."""
    tau, cuts = one_group(device, values), exact_cuts(values)
    if not cuts:
        assert tau == values[0]
        return
    best = max(objective for objective, _ in cuts)
    chosen = [objective for objective, below in cuts if below == tau]
    assert chosen and chosen[0] >= best * (1 - Fraction(1, 10**12))


@given(st.sampled_from([2, 4, 8, 16, 32]).flatmap(lambda n: st.lists(st.integers(0, 40), min_size=n, max_size=n)))
@example([0, 2, 3, 5])
def test_first_of_equal_cuts(device, steps):
    """With n a power of two and multiples of 1/1024, no step of the objective rounds: exact ties are ties."""
    values = [s / 1024 for s in steps]
    if cuts := exact_cuts(values):
        best = max(objective for objective, _ in cuts)
        assert one_group(device, values) == next(below for objective, below in cuts if objective == best)


SYMMETRIC = [
    ([0, 1, 2], 0.0),
    ([0, 0.5, 1], 0.0),
    ([0.25, 0.5, 0.75], 0.25),
    ([0, 1, 2, 3], 1.0),
    ([-1, 0, 1], -1.0),
    ([0, 0, 1, 1, 2, 2], 0.0),
    ([0, 1, 1, 1, 2], 0.0),
    ([0, 0, 1, 2, 2], 0.0),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("values", "tau"), SYMMETRIC)
def test_symmetric_group_takes_the_first_cut(device, values, tau, dtype):
    assert one_group(device, values, dtype) == tau


@pytest.mark.parametrize("n", [95, 96, 97, 98, 511, 1001, 4096])
@pytest.mark.parametrize("seed", range(3))
def test_large_symmetric_group_takes_the_first_cut(device, n, seed):
    """A group and its mirror image have the same best variance; the lower of the two cuts must win."""
    half = torch.randint(0, 512, (n // 2,), generator=rng(seed)).double() / 1024
    values = torch.cat([half, 1 - half, torch.full((n % 2,), 0.5, dtype=torch.float64)])
    ordered = values.sort().values
    sums, below = (ordered * 1024).cumsum(0)[:-1].long().tolist(), range(1, n)
    total = int((ordered * 1024).sum())
    exact = [Fraction((n * s - i * total) ** 2, i * (n - i)) for s, i in zip(sums, below, strict=True)]
    distinct = [i for i in range(n - 1) if ordered[i] != ordered[i + 1]]
    first = max(distinct, key=lambda i: (exact[i], -i))
    assert one_group(device, values) == ordered[first].item()


EDGES = [
    ([0.3], 0.3),
    ([0.3, 0.3, 0.3], 0.3),
    ([0.1, 0.9], 0.1),
    ([0.9, 0.1], 0.1),
    ([0.0, 0.0, 1.0], 0.0),
    ([-0.0], 0.0),
    ([-0.0, 0.0], 0.0),
    ([-0.0, 0.0, 1.0], 0.0),
    ([-1.0, -0.0, 0.0, 3.0], 0.0),
    ([5e-324, 0.0], 0.0),
    ([5e-324, 1e-323, 2e-308], 1e-323),
    ([-1e308, 1e308], -1e308),
    ([-1.7e308, -1.6e308, 1.7e308], -1.6e308),
    ([1.0, 1.0, 1.0 + 2.0**-52], 1.0),
    ([1e30] + [i * 1e-3 for i in range(50)], 49e-3),
    ([-1e30] + [i * 1e-3 for i in range(50)], -1e30),
]


@pytest.mark.parametrize(("values", "tau"), EDGES)
def test_edges(device, values, tau):
    result = one_group(device, values)
    assert result == tau
    assert math.copysign(1, result) == math.copysign(1, tau) or tau != 0


@pytest.mark.parametrize("bins", [2, 256, 65536])
@pytest.mark.parametrize("n", [3, 200])
def test_bins_of_a_range_that_overflows(device, n, bins):
    values = torch.linspace(-1, 1, n, dtype=torch.float64) * 1.7e308
    ids = torch.zeros(n, dtype=torch.int64)
    result = otsu(device, values, ids, 1, bins=bins)
    same_bits(result, reference.segmented_otsu(values, ids, 1, bins=bins))
    small = one_group(device, values * 2.0**-100, bins=bins)
    assert result.item() == pytest.approx(small * 2.0**100, rel=1e-12)


def test_empty_groups_are_nan(device):
    ids = torch.tensor([3, 1, 3, -1])
    result = otsu(device, torch.tensor([0.5, 0.25, 1.0, NAN]), ids, 5)
    same_bits(result, torch.tensor([NAN, 0.25, NAN, 0.5, NAN]))
    same_bits(otsu(device, torch.zeros(0), ids[:0], 3), torch.full((3,), NAN))
    same_bits(otsu(device, torch.zeros(0), ids[:0], 0), torch.zeros(0))
    same_bits(otsu(device, torch.zeros(2), torch.tensor([-1, -1]), 0), torch.zeros(0))


def heavy_tail(n, g):
    return torch.cat([torch.rand(n - 1, generator=g, dtype=torch.float64) * 1e-3, torch.tensor([1e30])])


def bimodal(n, g):
    upper = torch.rand(n, generator=g, dtype=torch.float64) < 0.1
    return torch.randn(n, generator=g, dtype=torch.float64).mul(0.05) + torch.where(upper, 0.8, 0.1)


SHAPES = {
    "uniform": lambda n, g: torch.rand(n, generator=g, dtype=torch.float64),
    "bimodal": bimodal,
    "near zero": lambda n, g: torch.rand(n, generator=g, dtype=torch.float64) ** 20,
    "heavy tail": heavy_tail,
    "geometric": lambda n, g: 2.0 ** -(torch.rand(n, generator=g, dtype=torch.float64) * 100),
    "256 levels": lambda n, g: torch.randint(0, 256, (n,), generator=g).double() / 255,
    "two values": lambda n, g: torch.randint(0, 2, (n,), generator=g).double().mul(0.5).add(0.25),
    "constant and one ulp": lambda n, g: 0.5 + (torch.arange(n) == n // 3).double() * 2.0**-24,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [95, 96, 97, 98, 1000, 4096, 100_000])
def test_group_sizes_around_the_counting_path(device, shape, n):
    values = SHAPES[shape](n, rng(n))
    ids = torch.zeros(n, dtype=torch.int64)
    for dtype in DTYPES:
        typed = values.clamp(max=60000).to(dtype) if dtype == torch.float16 else values.to(dtype)
        for bins in (None, 256):
            same_bits(otsu(device, typed, ids, 1, bins=bins), reference.segmented_otsu(typed, ids, 1, bins=bins))


@given(seeds, st.integers(97, 3000), st.sampled_from(sorted(SHAPES)), st.integers(-3, 3))
def test_counting_path_against_reference(device, seed, n, shape, scale):
    values = SHAPES[shape](n, rng(seed)) * 10.0**scale
    ids = torch.zeros(n, dtype=torch.int64)
    same_bits(otsu(device, values, ids, 1), reference.segmented_otsu(values, ids, 1))


@given(seeds, st.sampled_from([2, 16, 256, 1000]), st.integers(2, 400))
def test_bins_are_scikit_image(device, seed, bins, n):
    """Equal thresholds, or (its counts are float32) another bin of an equal between-class variance."""
    threshold_otsu = pytest.importorskip("skimage.filters").threshold_otsu
    values = torch.rand(n, generator=rng(seed), dtype=torch.float64) ** 3
    ours, theirs = one_group(device, values, bins=bins), float(threshold_otsu(values.numpy(), nbins=bins))
    if ours != theirs:
        counts, edges = np.histogram(values.numpy(), bins)
        centers = (edges[1:] + edges[:-1]) / 2

        def variance(tau):
            low = centers <= tau + 1e-12
            n0, n1 = counts[low].sum(), counts[~low].sum()
            means = (counts * centers)[low].sum() / n0 - (counts * centers)[~low].sum() / n1
            return n0 * n1 * means**2

        assert variance(ours) == pytest.approx(variance(theirs), rel=1e-6)


@given(segments(), dtypes, seeds)
def test_permutation_invariance(device, case, dtype, seed):
    values, ids, k = case
    values, ids = as_tensors(values, ids, dtype)
    order = torch.randperm(len(ids), generator=rng(seed))
    same_bits(otsu(device, values[order], ids[order], k), otsu(device, values, ids, k))


@given(segments(), st.integers(-60, 60))
def test_scaling_by_a_power_of_two(device, case, exponent):
    values, ids, k = case
    values, ids = as_tensors(values, ids)
    same_bits(otsu(device, values * 2.0**exponent, ids, k), otsu(device, values, ids, k) * 2.0**exponent)


@given(segments(), segments(), dtypes)
def test_merging_batches(device, first, second, dtype):
    (v1, i1, k1), (v2, i2, k2) = first, second
    shifted = [k + k1 if k >= 0 else -1 for k in i2]
    merged = otsu(device, *as_tensors(v1 + v2, i1 + shifted, dtype), k1 + k2)
    apart = [otsu(device, *as_tensors(v, i, dtype), k) for v, i, k in ((v1, i1, k1), (v2, i2, k2))]
    same_bits(merged, torch.cat(apart))


@given(segments(), seeds)
def test_relabeling_groups(device, case, seed):
    values, ids, k = case
    values, ids = as_tensors(values, ids)
    names = torch.randperm(k, generator=rng(seed))
    renamed = torch.cat([names, torch.tensor([-1])])[ids]  # -1 finds the last
    same_bits(otsu(device, values, renamed, k)[names], otsu(device, values, ids, k))


def test_views_are_read_where_they_point(device):
    base = torch.rand(2, 60, generator=rng())
    values, ids = base.t()[::3, 1], torch.arange(120).remainder(4)[::6]
    assert not values.is_contiguous() and not ids.is_contiguous()
    expected = reference.segmented_otsu(values.contiguous(), ids.contiguous(), 4)
    v, i = on(device, base, torch.arange(120).remainder(4))
    same_bits(segmented_otsu(v.t()[::3, 1], i[::6], 4), expected)


def test_threads_do_not_change_a_bit(threads):
    values = torch.rand(200_000, generator=rng())
    ids = torch.randint(-1, 50, (200_000,), generator=rng(1))
    results = []
    for n in (1, 2, 5):
        threads(n)
        results.append(segmented_otsu(values, ids, 50))
    same_bits(results[1], results[0])
    same_bits(results[2], results[0])
    same_bits(results[0], reference.segmented_otsu(values, ids, 50))


def test_many_more_groups_than_values(device):
    ids = torch.tensor([99_999, 0, 99_999])
    result = otsu(device, torch.tensor([1.0, 2.0, 3.0]), ids, 100_000)
    assert result[0] == 2 and result[-1] == 1 and int(result.isnan().sum()) == 99_998


def test_thresholds_carry_no_gradient(device):
    values = torch.rand(5, device=device, requires_grad=True)
    assert not segmented_otsu(values, torch.zeros(5, dtype=torch.int64, device=device), 1).requires_grad
