"""segmented_spearman against reference.py; test_divergence.py compares it with scipy."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from strategies import DTYPES, dtypes, on, rng, same_bits, same_values, seeds, segments

import mlc_ext
from mlc_ext import reference


def spearman(device, x, y, ids, num_segments):
    result = mlc_ext.segmented_spearman(*on(device, x, y, ids), num_segments)
    assert all(t.device.type == device for t in result)
    return [t.cpu() for t in result]


@given(data=segments(), dtype=dtypes, seed=seeds)
def test_equals_reference(device, data, dtype, seed):
    values, ids, num_segments = data
    x, ids = torch.tensor(values, dtype=dtype), torch.tensor(ids, dtype=torch.int64)
    y = torch.randint(0, 6, (len(x),), generator=rng(seed)).to(dtype)
    rho, n = spearman(device, x, y, ids, num_segments)
    expected, count = reference.segmented_spearman(x, y, ids, num_segments)
    assert torch.equal(n, count)
    same_bits(rho, expected)


@given(data=segments(), seed=seeds)
def test_order_does_not_matter(device, data, seed):
    values, ids, num_segments = data
    x, ids = torch.tensor(values), torch.tensor(ids, dtype=torch.int64)
    y = torch.rand(len(x), generator=rng(seed))
    shuffle = torch.randperm(len(x), generator=rng(seed))
    rho, _ = spearman(device, x, y, ids, num_segments)
    shuffled, _ = spearman(device, x[shuffle], y[shuffle], ids[shuffle], num_segments)
    same_bits(rho, shuffled)


@st.composite
def pairs(draw):
    """x, y in float64 with ties, their groups and how many there are."""
    values, ids, num_segments = draw(segments())
    x, ids = torch.tensor(values, dtype=torch.float64), torch.tensor(ids, dtype=torch.int64)
    return x, torch.randint(0, 6, (len(x),), generator=rng(draw(seeds))).double(), ids, num_segments


@given(pairs(), seeds)
def test_only_ranks_count(data, seed):
    """Any increasing map of x leaves rho, a decreasing one turns its sign; x and y are alike."""
    x, y, ids, k = data
    rho, _ = mlc_ext.segmented_spearman(*data)
    levels, place = x.unique(return_inverse=True)
    other = torch.rand(len(levels), generator=rng(seed), dtype=torch.float64).cumsum(0) * 1e6 - 3e6
    assert len(other.unique()) == len(levels)
    same_bits(mlc_ext.segmented_spearman(other[place], y, ids, k)[0], rho)
    same_values(mlc_ext.segmented_spearman(-x, y, ids, k)[0], -rho)
    same_bits(mlc_ext.segmented_spearman(y, x, ids, k)[0], rho)
    same_bits(mlc_ext.segmented_spearman(x * 2.0**-9, y * 2.0**11, ids, k)[0], rho)


@given(pairs(), pairs())
def test_merging_batches(first, second):
    (x1, y1, ids1, k1), (x2, y2, ids2, k2) = first, second
    shifted = torch.where(ids2 >= 0, ids2 + k1, -1)
    merged = mlc_ext.segmented_spearman(torch.cat([x1, x2]), torch.cat([y1, y2]), torch.cat([ids1, shifted]), k1 + k2)
    for ours, *apart in zip(
        merged, mlc_ext.segmented_spearman(*first), mlc_ext.segmented_spearman(*second), strict=True
    ):
        same_bits(ours, torch.cat(apart))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_groups(device, dtype, threads):
    x, y = torch.randint(0, 900, (2, 6000), generator=rng(1)).to(dtype)
    ids = torch.randint(-1, 3, (6000,), generator=rng(2))
    expected, _ = reference.segmented_spearman(x, y, ids, 3)
    for count in (1, 3):
        threads(count)
        same_bits(spearman(device, x, y, ids, 3)[0], expected)


@pytest.mark.parametrize("segments", [1, 3, 40_000])
def test_large_and_many_groups_are_exact(device, segments):
    """Against ranks and sums in int64; the sums of the one group have more bits than a double."""
    n = 300_000
    g = rng(segments)
    ids = torch.randint(0, segments, (n,), generator=g)
    x = torch.rand(n, generator=g).mul(10_000).floor()
    y = torch.where(torch.rand(n, generator=g) < 0.3, x, torch.rand(n, generator=g).mul(10_000).floor())
    sizes = ids.bincount(minlength=segments)
    begin = sizes.cumsum(0) - sizes

    def ranks(values):  # [n] doubled centered ranks
        key = ids * 16_384 + values.long()
        _, inverse, counts = key.unique(return_inverse=True, return_counts=True)
        first = (counts.cumsum(0) - counts)[inverse] - begin[ids]
        return 2 * first + counts[inverse] + 1 - (sizes[ids] + 1)

    a, b = ranks(x), ranks(y)
    xy, xx, yy = (torch.zeros(segments, dtype=torch.int64).index_add(0, ids, p) for p in (a * b, a * a, b * b))
    rho, count = spearman(device, x, y, ids, segments)
    assert torch.equal(count, sizes)
    for k in range(0, segments, max(segments // 200, 1)):
        if xx[k] > 0 and yy[k] > 0:
            assert rho[k].item() == xy[k].item() / math.sqrt(float(xx[k]) * float(yy[k]))
        else:
            assert rho[k].isnan()


@pytest.mark.slow
def test_sums_of_more_than_64_bits(device):
    """x against itself and reversed: rho is 1 and -1 up to no rounding at all."""
    n = 4_000_000
    x = torch.randperm(n, generator=rng(7)).double()
    ids = torch.zeros(n, dtype=torch.int64)
    assert spearman(device, x, x, ids, 1)[0].item() == 1
    assert spearman(device, x, -x, ids, 1)[0].item() == -1


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinities_and_zeros(device, dtype):
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([-inf, -0.0, 0.0, inf, 1.0, nan, 1.0, 2.0], dtype=dtype)
    y = torch.tensor([-5.0, 1.0, 1.0, 7.0, 1.0, 2.0, inf, inf], dtype=dtype)
    rho, n = spearman(device, x, y, torch.tensor([0, 0, 0, 0, 1, 1, 2, 2]), 4)
    same_bits(rho, torch.tensor([1.0, nan, nan, nan], dtype=torch.float64))
    assert n.tolist() == [4, 2, 2, 0]


def test_views_are_read_where_they_point(device):
    base = torch.rand(40, 3, generator=rng(5))
    ids = torch.arange(80) % 3
    expected = reference.segmented_spearman(base[:, 0], base[:, 2], ids[::2], 3)[0]
    moved, moved_ids = on(device, base, ids)
    same_bits(mlc_ext.segmented_spearman(moved[:, 0], moved[:, 2], moved_ids[::2], 3)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_group_that_outweighs_a_thread(dtype, threads):
    """Its sides are ranked side by side; a NaN on either side leaves the others' results alone."""
    n = 50_000
    x, y = torch.randint(0, 9000, (2, n), generator=rng(5)).to(dtype)
    ids = torch.where(torch.arange(n) % 25 == 0, 1 + torch.arange(n) % 2, 0)
    with_nan = y.clone()
    with_nan[n // 2 + 1] = torch.nan
    expected = torch.tensor([spearmanr(x[ids == k], y[ids == k]).statistic for k in range(3)])
    assert ids[n // 2 + 1] == 0
    for count in (1, 2, 3):
        threads(count)
        rho = mlc_ext.segmented_spearman(x, y, ids, 3)[0]
        torch.testing.assert_close(rho, expected, rtol=0, atol=1e-12)
        same_bits(mlc_ext.segmented_spearman(with_nan, x, ids, 3)[0], torch.tensor([torch.nan, *rho[1:]]).double())


def test_what_is_no_tensor_is_refused():
    x, ids = torch.rand(20, generator=rng(3)), torch.randint(-1, 4, (20,), generator=rng(4))
    with pytest.raises(TypeError, match="^segmented_spearman: y must be a Tensor, got list"):
        mlc_ext.segmented_spearman(x, [1.0], ids, 4)
    with pytest.raises(ValueError, match=r"^segmented_spearman: y must have the shape of x \[20\], got \[19\]"):
        mlc_ext.segmented_spearman(x, x[1:], ids, 4)
