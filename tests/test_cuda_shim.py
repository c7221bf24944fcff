"""The CUDA kernels' device code, run on the CPU through tests/cuda_shim, against the operators' CPU kernels.

Nothing here needs CUDA, and nothing here says that a kernel runs on a GPU: it says what the kernel computes.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import pytest
import torch

import mlc_ext
from mlc_ext import reference

SHIM = Path(__file__).resolve().parent / "cuda_shim"
_spec = importlib.util.spec_from_file_location("cuda_shim_build", SHIM / "build.py")
shim_build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(shim_build)

pytestmark = pytest.mark.skipif(shim_build.compiler() is None, reason="needs a C++20 compiler")


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """library(driver) -> its functions, compiled once a session."""
    loaded = {}

    def get(driver):
        if driver not in loaded:
            path = tmp_path_factory.mktemp("cuda_shim") / f"{driver}.so"
            loaded[driver] = ctypes.CDLL(str(shim_build.build(driver, path, "-shared", "-fPIC")))
        return loaded[driver]

    return get


def call(function, *args):
    """Calls a driver: tensors by address, int as int64 (the ABI extends it), float as double."""

    def convert(arg):
        if arg is None:
            return ctypes.c_void_p(None)
        if isinstance(arg, torch.Tensor):
            assert arg.is_contiguous()
            return ctypes.c_void_p(arg.data_ptr())
        return ctypes.c_double(arg) if isinstance(arg, float) else ctypes.c_int64(arg)

    function.restype = None
    function(*map(convert, args))


def same_bits(actual, expected):
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
    nan = expected.isnan()
    assert torch.equal(actual.isnan(), nan), (actual, expected)
    assert torch.equal(actual[~nan].view(integer), expected[~nan].view(integer)), (actual, expected)


def random_boxes(n, generator, size=50.0, dtype=torch.float32):
    corner = torch.rand(n, 2, generator=generator, dtype=torch.float64) * size
    extent = torch.rand(n, 2, generator=generator, dtype=torch.float64) * size * 0.5
    return torch.cat([corner, corner + extent], 1).round(decimals=1).to(dtype)


def generator(seed):
    return torch.Generator().manual_seed(seed)


# --- boxes


@pytest.mark.parametrize(("n", "m", "grid"), [(13, 256, (3, 2)), (7, 131, (2, 1)), (1, 1, (1, 1)), (12, 5, (2, 1))])
def test_box_iou(library, n, m, grid):
    boxes1, boxes2 = random_boxes(n, generator(n)), random_boxes(m, generator(m))
    boxes2[0] = boxes1[0]
    boxes1[-1, 2] = boxes1[-1, 0] - 3  # inverted: empty
    out = torch.full((n, m), -7.0)
    call(library("driver_boxes").shim_box_iou, boxes1, boxes2, n, m, *grid, out)
    expected = mlc_ext.box_iou(boxes1, boxes2)
    assert (expected > 0).any() or n == 1
    same_bits(out, expected)


@pytest.mark.parametrize("kind", ["iou", "giou"])
def test_paired_box_iou_and_its_gradients(library, kind):
    n, g = 150, generator(3)  # more than the threads of the grid
    boxes1, boxes2 = (random_boxes(n, g, dtype=torch.float64) for _ in range(2))
    boxes2[:5] = boxes1[:5]  # ties
    boxes1[5, 3] = boxes1[5, 1]  # empty
    boxes1.requires_grad_(), boxes2.requires_grad_()
    expected = mlc_ext.paired_box_iou(boxes1, boxes2, kind=kind)
    weights = torch.rand(n, generator=g, dtype=torch.float64)
    expected.backward(weights)
    out, grad1, grad2 = torch.zeros(n, dtype=torch.float64), torch.zeros_like(boxes1), torch.zeros_like(boxes2)
    functions, a, b, generalized = library("driver_boxes"), boxes1.detach(), boxes2.detach(), int(kind == "giou")
    call(functions.shim_paired_box_iou, a, b, n, generalized, out)
    call(functions.shim_paired_box_iou_backward, weights, a, b, n, generalized, grad1, grad2)
    same_bits(out, expected.detach())
    same_bits(grad1, boxes1.grad)
    same_bits(grad2, boxes2.grad)


# --- Otsu and mutual labels. In the driver a block sorts up to 64 values and counts into 16 levels.


def shim_otsu(library, values, ids, num_segments, bins=None, path=1, groups=1):
    thresholds = values.new_full((num_segments,), -7.0)
    name = {torch.float32: "shim_segmented_otsu_float", torch.float64: "shim_segmented_otsu_double"}[values.dtype]
    function = getattr(library("driver_otsu"), name)
    call(function, values, ids, values.numel(), num_segments, bins or 0, path, groups, thresholds)
    return thresholds


def group_values(kind, n, g):
    uniform = torch.rand(n, generator=g)
    if kind == "bimodal":
        return torch.where(uniform < 0.3, uniform, 5 + uniform)
    if kind == "ties":
        return (uniform * 7).floor() / 7
    if kind == "heavy tail":  # most values share one level, level after level
        return torch.where(torch.arange(n) < 2, 1.0, uniform**6 * 1e-3)
    if kind == "symmetric":  # two best cuts, which tie
        return torch.cat([uniform[: n // 2], 1 - uniform[: n // 2], uniform.new_full((n % 2,), 0.5)])
    if kind == "levels of one value":  # heavier than what is sorted, and nothing to sort
        return torch.where(uniform < 0.5, 0.0, torch.where(uniform < 0.9, 0.25, 1.0))
    return uniform


@pytest.mark.parametrize("kind", ["uniform", "bimodal", "ties", "heavy tail", "symmetric", "levels of one value"])
@pytest.mark.parametrize("bins", [None, 7, 256])
def test_otsu_of_every_size_class(library, kind, bins):
    """A warp's group, a sorted one, one by levels, an empty one."""
    g = generator(11)
    sizes = [0, 1, 2, 32, 33, 64, 65, 450, 0]
    values = torch.cat([group_values(kind, n, g) for n in sizes])
    ids = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    order = torch.randperm(values.numel(), generator=g)
    values, ids = values[order].contiguous(), ids[order].contiguous()
    expected = mlc_ext.segmented_otsu(values, ids, len(sizes), bins=bins)
    same_bits(shim_otsu(library, values, ids, len(sizes), bins), expected)


@pytest.mark.parametrize("path", [0, 1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_otsu_by_every_way_of_grouping(library, path, groups):
    """Ids in any order, some in no group, more groups than a block has threads or warps."""
    g = generator(5)
    n, segments = 500, 21 if path == 0 else (31 if path == 1 else 70)
    values = torch.rand(n, generator=g)
    ids = (torch.rand(n, generator=g) ** 3 * segments).long()
    ids[torch.rand(n, generator=g) < 0.2] = -1
    expected = mlc_ext.segmented_otsu(values, ids, segments)
    assert expected.isnan().any() or path != 2
    same_bits(shim_otsu(library, values, ids, segments, path=path, groups=groups), expected)


@pytest.mark.parametrize("scale", [1e308, 1.0, 1e-310])
def test_otsu_of_doubles_from_end_to_end_of_their_range(library, scale):
    values = (torch.rand(300, generator=generator(2), dtype=torch.float64) - 0.5) * 2 * scale
    values[:100] = 0.3 * scale
    ids = torch.zeros(300, dtype=torch.int64)
    same_bits(shim_otsu(library, values, ids, 1), mlc_ext.segmented_otsu(values, ids, 1))


def test_otsu_of_many_close_values_descends_to_single_ones(library):
    """Values so dense that a level of the finest window still holds more than can be sorted."""
    base = torch.rand(400, generator=generator(8), dtype=torch.float64) * 2.0**-45
    values = torch.cat([base, base + 0.5, torch.tensor([1.0], dtype=torch.float64)])
    ids = torch.zeros(values.numel(), dtype=torch.int64)
    for bins in (None, 65536):
        expected = mlc_ext.segmented_otsu(values, ids, 1, bins=bins)
        same_bits(shim_otsu(library, values, ids, 1, bins=bins), expected)


def test_otsu_survives_values_that_are_not_finite_and_foreign_ids(library):
    """Their result is unspecified; the groups beside them are not."""
    values = torch.rand(400, generator=generator(4))
    ids = torch.arange(400) % 2
    expected = mlc_ext.segmented_otsu(values, ids, 2)
    for bad in (float("nan"), float("inf"), -float("inf")):
        for bins in (None, 8):
            spoilt = values.clone()
            spoilt[::50] = bad
            out = shim_otsu(library, spoilt, ids, 2, bins=bins)
            clean = mlc_ext.segmented_otsu(values, ids, 2, bins=bins)
            same_bits(out[1:], clean[1:])
    foreign = torch.cat([ids, torch.tensor([2, -5, 2**40])])
    same_bits(shim_otsu(library, torch.cat([values, torch.ones(3)]), foreign, 2), expected)


@pytest.mark.parametrize("path", [0, 1])
@pytest.mark.parametrize(("alpha", "literal", "bins"), [(0.5, False, None), (2.0, True, None), (0.0, False, 16)])
def test_mutual_labels(library, path, alpha, literal, bins):
    g = generator(21)
    n, segments = 420, 6
    scores, ious = (torch.rand(n, generator=g) * 20).floor() / 20, torch.rand(n, generator=g)
    ids = (torch.rand(n, generator=g) ** 2 * segments).long() - 1
    scores[ids == 1] = 0.25  # cannot be split
    baseline = torch.randint(-1, 2, (n,), generator=g, dtype=torch.int8)
    baseline[ids < 0] = baseline[ids < 0].clamp(max=0)
    degenerate = "literal" if literal else "baseline"
    expected = mlc_ext.mutual_labels(
        scores, ious, ids, baseline, segments, alpha=alpha, degenerate=degenerate, bins=bins
    )
    actual = [torch.full_like(t, 99) for t in expected]
    function = library("driver_otsu").shim_mutual_labels
    call(function, scores, ious, ids, baseline, n, segments, alpha, int(literal), bins or 0, path, *actual)
    for got, want in zip(actual, expected, strict=True):
        assert torch.equal(got, want) if want.dtype == torch.int8 else same_bits(got, want) is None
