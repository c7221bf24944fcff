"""segmented_spearman against reference.py; test_divergence.py compares it with scipy."""

import pytest
import torch
from hypothesis import given
from strategies import dtypes, rng, same_bits, seeds, segments

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_groups(dtype, threads):
    x, y = torch.randint(0, 900, (2, 6000), generator=rng(1)).to(dtype)
    ids = torch.randint(-1, 3, (6000,), generator=rng(2))
    expected, _ = reference.segmented_spearman(x, y, ids, 3)
    for count in (1, 3):
        threads(count)
        same_bits(mlc_ext.segmented_spearman(x, y, ids, 3)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_group_that_outweighs_a_thread(dtype, threads):
    """Its sides are ranked side by side; a NaN on either side leaves the others' results alone."""
    n = 50_000
    x, y = torch.randint(0, 9000, (2, n), generator=rng(5)).to(dtype)
    ids = torch.where(torch.arange(n) % 25 == 0, 1 + torch.arange(n) % 2, 0)
    with_nan = y.clone()
    with_nan[n // 2 + 1] = torch.nan
    expected, _ = reference.segmented_spearman(x, y, ids, 3)
    assert ids[n // 2 + 1] == 0
    for count in (1, 2, 3):
        threads(count)
        same_bits(mlc_ext.segmented_spearman(x, y, ids, 3)[0], expected)
        same_bits(mlc_ext.segmented_spearman(with_nan, x, ids, 3)[0], torch.tensor([torch.nan, *expected[1:]]).double())


def test_registration():
    x, ids = torch.rand(20, generator=rng(3)), torch.randint(-1, 4, (20,), generator=rng(4))
    torch.library.opcheck(torch.ops.mlc_ext.segmented_spearman.default, (x, x.flip(0), ids, 4))
    with pytest.raises(TypeError, match="^segmented_spearman: y must be a Tensor, got list"):
        mlc_ext.segmented_spearman(x, [1.0], ids, 4)
