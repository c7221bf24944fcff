"""segmented_spearman's CUDA device code, run on the CPU through tests/cuda_shim, against the CPU operator.

In the driver tiles of 128 are sorted and merged, and four warps share the pairs.
"""

from fractions import Fraction

import pytest
import torch
from test_cuda_shim import call, generator, library, pytestmark, same_bits  # noqa: F401

import mlc_ext
from mlc_ext import reference

NAN, INF = float("nan"), float("inf")


def shim_spearman(library, x, y, ids, num_segments):  # noqa: F811
    rho = torch.full((num_segments,), -7.0, dtype=torch.float64)
    sizes = torch.full((num_segments,), -7)
    name = f"shim_segmented_spearman_{'float' if x.dtype == torch.float32 else 'double'}"
    call(getattr(library("driver_spearman"), name), x, y, ids, len(x), num_segments, rho, sizes)
    return rho, sizes


def check(library, x, y, ids, num_segments):  # noqa: F811
    rho, sizes = shim_spearman(library, x, y, ids, num_segments)
    expected, n = mlc_ext.segmented_spearman(x, y, ids, num_segments)
    assert torch.equal(sizes, n)
    same_bits(rho, expected)
    same_bits(rho, reference.segmented_spearman(x, y, ids, num_segments)[0])
    return rho


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [3, 40, 10**6])
@pytest.mark.parametrize(("n", "segments"), [(1, 1), (31, 1), (128, 2), (700, 1), (700, 9), (700, 400)])
def test_groups_of_every_size(library, dtype, levels, n, segments):  # noqa: F811
    """One group over all tiles and warps, several a warp, a handful of pairs each; ties few and many."""
    g = generator(n + segments)
    x, y = (torch.randint(0, levels, (n,), generator=g).to(dtype).sub(levels // 2) for _ in range(2))
    y = torch.where(torch.rand(n, generator=g) < 0.5, x, y)
    ids = torch.randint(-1 if n > 1 else 0, segments, (n,), generator=g)
    rho = check(library, x, y, ids, segments)
    assert n == 1 or levels < 40 or not rho.isnan().all()


def test_groups_end_where_tiles_warps_and_slices_do(library):  # noqa: F811
    """600 pairs: slices of 150, tiles of 128; groups of 32, 64, 54, 150 and 300, and one of each size up to 20."""
    g = generator(5)
    for sizes in ([32, 64, 54, 150, 300], [600], [150] * 4, [128, 128, 128, 128, 88], list(range(21))):
        ids = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        ids = ids[torch.randperm(len(ids), generator=g)].contiguous()
        x, y = (torch.rand(len(ids), generator=g).mul(50).floor() for _ in range(2))
        check(library, x, y, ids, len(sizes))


def test_order_does_not_matter(library):  # noqa: F811
    g = generator(8)
    x, y = (torch.rand(500, generator=g).mul(30).floor() for _ in range(2))
    ids = torch.randint(-1, 4, (500,), generator=g)
    expected, _ = shim_spearman(library, x, y, ids, 4)
    for _ in range(3):
        order = torch.randperm(500, generator=g)
        same_bits(shim_spearman(library, x[order], y[order], ids[order], 4)[0], expected)


def test_undefined_groups(library):  # noqa: F811
    """Empty, of one pair, constant, with a NaN on either side; the groups between them are as ever."""
    g = generator(2)
    ids = torch.repeat_interleave(torch.arange(1, 9), torch.tensor([1, 40, 200, 3, 150, 90, 2, 60]))
    x, y = torch.rand(len(ids), generator=g), torch.rand(len(ids), generator=g)
    x[ids == 2] = 0.5
    y[ids == 3] = -1.0
    x[(ids == 5).nonzero()[70]] = NAN
    y[(ids == 6).nonzero()[0]] = -NAN
    order = torch.randperm(len(ids), generator=g)
    rho = check(library, x[order], y[order], ids[order], 10)
    assert rho.isnan().tolist() == [True, True, True, True, False, True, True, False, False, True]
    assert rho[7].abs() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinities_rank_and_zeros_are_equal(library, dtype):  # noqa: F811
    g = generator(4)
    pool = torch.tensor([-INF, -1.0, -0.0, 0.0, 5e-324, 1.0, INF], dtype=torch.float64).to(dtype)
    x, y = (pool[torch.randint(0, 7, (400,), generator=g)] for _ in range(2))
    check(library, x, y, torch.arange(400) % 3, 3)
    exact = torch.tensor([-0.0, 0.0, INF, -INF], dtype=dtype)
    ranks = torch.tensor([1.0, 1.0, 2.0, 0.0], dtype=dtype)
    assert check(library, exact, ranks, torch.zeros(4, dtype=torch.int64), 1).item() == 1


def test_no_groups_no_pairs_and_foreign_ids(library):  # noqa: F811
    """Ids outside [0, K) are in no group; the GPU does not look for them."""
    g = generator(6)
    x, y, ids = torch.rand(300, generator=g), torch.rand(300, generator=g), torch.arange(300) % 2
    expected, n = mlc_ext.segmented_spearman(x, y, ids, 2)
    foreign = torch.cat([ids, torch.tensor([2, -5, 2**40, 2**32, -(2**63)])])
    extra = torch.cat([x, torch.rand(5, generator=g)]), torch.cat([y, torch.rand(5, generator=g)])
    rho, sizes = shim_spearman(library, *extra, foreign, 2)
    same_bits(rho, expected)
    assert torch.equal(sizes, n)
    rho, sizes = shim_spearman(library, x, y, torch.full((300,), -1), 3)
    assert rho.isnan().all() and not sizes.any()


@pytest.mark.parametrize(
    "value",
    [1, -1, 2**57, -(2**57) - 1, 2**64 - 1, 2**63, -(2**64), 3 * 2**90 + 1, -(2**93) + 2**30 - 1, 2**119 - 1],
)
def test_sums_of_two_words_are_exact_and_rounded_once(library, value):  # noqa: F811
    words, nearest = torch.zeros(2, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    signed = [(value >> 64 & (2**64 - 1)), value & (2**64 - 1)]
    high, low = (word - 2**64 if word >= 2**63 else word for word in signed)
    call(library("driver_spearman").shim_atomic_sum, high, low, words, nearest)
    total = 128 * value  # of 128 threads
    assert words.tolist() == [(total + 2**63) % 2**64 - 2**63, total >> 64]
    assert nearest.item() == float(Fraction(total))


@pytest.mark.parametrize("offset", [-1, 0, 1])
@pytest.mark.parametrize("shift", [0, 4, 40])
@pytest.mark.parametrize("odd", [0, 1])
def test_a_tie_between_doubles_goes_to_the_even_one(library, offset, shift, odd):  # noqa: F811
    """Half a unit in the last place, a bit less and a bit more, far below the upper word."""
    value = ((2**53 + 2 * odd + 1) << (shift + 10)) + offset
    words, nearest = torch.zeros(2, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    low = value & (2**64 - 1)
    call(library("driver_spearman").shim_atomic_sum, value >> 64, low - 2**64 if low >= 2**63 else low, words, nearest)
    assert nearest.item() == float(Fraction(128 * value))
