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


def test_what_is_no_tensor_is_refused():
    x, ids = torch.rand(20, generator=rng(3)), torch.randint(-1, 4, (20,), generator=rng(4))
    with pytest.raises(TypeError, match="^segmented_spearman: y must be a Tensor, got list"):
        mlc_ext.segmented_spearman(x, [1.0], ids, 4)
