"""segmented_spearman against reference.py; test_divergence.py compares it with scipy."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import dtypes, rng, same_bits, same_values, seeds, segments

import mlc_ext
from mlc_ext import reference


@given(data=segments(), dtype=dtypes, seed=seeds)
def test_equals_reference(data, dtype, seed):
    values, ids, num_segments = data
    x, ids = torch.tensor(values, dtype=dtype), torch.tensor(ids, dtype=torch.int64)
    y = torch.randint(0, 6, (len(x),), generator=rng(seed)).to(dtype)
    rho, n = mlc_ext.segmented_spearman(x, y, ids, num_segments)
    expected, count = reference.segmented_spearman(x, y, ids, num_segments)
    assert torch.equal(n, count)
    same_bits(rho, expected)


@given(data=segments(), seed=seeds)
def test_order_and_threads_do_not_matter(data, seed):
    values, ids, num_segments = data
    x, ids = torch.tensor(values), torch.tensor(ids, dtype=torch.int64)
    y = torch.rand(len(x), generator=rng(seed))
    shuffle = torch.randperm(len(x), generator=rng(seed))
    rho, _ = mlc_ext.segmented_spearman(x, y, ids, num_segments)
    shuffled, _ = mlc_ext.segmented_spearman(x[shuffle], y[shuffle], ids[shuffle], num_segments)
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
    merged = mlc_ext.segmented_spearman(
        torch.cat([x1, x2]), torch.cat([y1, y2]), torch.cat([ids1, shifted]), k1 + k2
    )
    for ours, *apart in zip(
        merged, mlc_ext.segmented_spearman(*first), mlc_ext.segmented_spearman(*second), strict=True
    ):
        same_bits(ours, torch.cat(apart))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_groups(dtype, threads):
    x, y = torch.randint(0, 900, (2, 6000), generator=rng(1)).to(dtype)
    ids = torch.randint(-1, 3, (6000,), generator=rng(2))
    expected, _ = reference.segmented_spearman(x, y, ids, 3)
    for count in (1, 3):
        threads(count)
        same_bits(mlc_ext.segmented_spearman(x, y, ids, 3)[0], expected)


def test_what_is_no_tensor_is_refused():
    x, ids = torch.rand(20, generator=rng(3)), torch.randint(-1, 4, (20,), generator=rng(4))
    with pytest.raises(TypeError, match="^segmented_spearman: y must be a Tensor, got list"):
        mlc_ext.segmented_spearman(x, [1.0], ids, 4)
