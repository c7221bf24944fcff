"""The CUDA kernels' device code, run on the CPU through tests/cuda_shim, against the operators' CPU kernels.

Nothing here needs CUDA. These tests check what a kernel computes, not that it runs on a GPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
from pathlib import Path

import pytest
import torch

import mlc_ext
from mlc_ext import reference

SHIM = Path(__file__).resolve().parents[1] / "cuda_shim"
_spec = importlib.util.spec_from_file_location("cuda_shim_build", SHIM / "build.py")
shim_build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(shim_build)

pytestmark = pytest.mark.skipif(shim_build.compiler() is None, reason="needs a C++20 compiler with std::barrier")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """library(driver) -> its functions, compiled once."""
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


def check_box_iou(library, boxes1, boxes2, rows):
    n, m = len(boxes1), len(boxes2)
    out = boxes1.new_full((n, m), -7.0)
    name = "float" if boxes1.dtype == torch.float32 else "double"
    call(getattr(library("driver_boxes"), f"shim_box_iou_{name}"), boxes1, boxes2, n, m, rows, out)
    expected = mlc_ext.box_iou(boxes1, boxes2)
    same_bits(out, expected)
    return expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("n", "m", "rows"), [(13, 256, 3), (7, 131, 32), (1, 1, 4), (12, 5, 2), (70, 300, 32), (33, 128, 32)]
)
def test_box_iou(library, dtype, n, m, rows):
    """Rows and columns that fill their warps' shares or do not, and warps without a row."""
    boxes1 = random_boxes(n, generator(n), dtype=dtype)
    boxes2 = random_boxes(m, generator(m), dtype=dtype)
    boxes2[0] = boxes1[0]
    boxes1[-1, 2] = boxes1[-1, 0] - 3  # inverted: empty
    expected = check_box_iou(library, boxes1, boxes2, rows)
    assert (expected > 0).any() or n == 1


def test_the_division_in_range_is_correctly_rounded(library):
    """Also where a quotient is next to the middle between two floats, and with reciprocals of either rounding."""
    n, g = 200_000, generator(4)
    b = torch.rand(n, generator=g) + 1
    b[:4] = torch.tensor([1, 2 - 2**-23, 1 + 2**-23, 1.5])
    middle = torch.rand(n, generator=g).double() / 2 + 0.5 + 2**-25
    for a in (torch.rand(n, generator=g), (middle * b).float(), b.clone(), torch.zeros(n)):
        for exponent in (0, -60, 60):
            numerator, denominator = a * 2.0**exponent, b * 2.0**exponent
            out = torch.full((n,), -7.0)
            call(library("driver_boxes").shim_divide_in_range, numerator, denominator, n, out)
            same_bits(out, numerator / denominator)


@pytest.mark.parametrize("exponent", [-140, -100, -60, -32, -20, 0, 10, 23, 24, 40, 58, 62, 100])
def test_box_iou_of_any_magnitude(library, exponent):
    """Coordinates for which a division must be checked, and others; no IoU changes, unless an area over- or
    underflows."""
    boxes1, boxes2 = (random_boxes(n, generator(n)) * 2.0**exponent for n in (9, 130))
    boxes2[:9] = boxes1 * 1.0625
    check_box_iou(library, boxes1, boxes2, 5)


@pytest.mark.parametrize(
    ("low", "high"),
    [(-27, 10), (-28, 9), (-8, 29), (-9, 29), (-8, 30), (-27, 11), (0, 0), (-20, 21), (-40, -10), (20, 55), (-10, 31)],
)
def test_box_iou_at_the_ends_of_the_range(library, low, high):
    """The least areas that coordinates from 2^low to 2^(high + 1) have, within the largest: quotients next to the least
    normal number, and below it."""
    least, most, step = 2.0**low, 2.0**high * (2 - 2**-23), 2.0 ** (low - 23)
    slivers = torch.tensor([[least, least, least + k * step, least + 3 * step] for k in range(1, 8)])
    large = torch.tensor([[-most, -most, most, most], [0, 0, most, most], [-most, 0, 0, most]])
    boxes1 = torch.cat([slivers, slivers + torch.tensor([0, step, 0, step]), large])
    expected = check_box_iou(library, boxes1, boxes1[:-1].contiguous(), 32)
    assert (expected.diagonal() == 1).all()


@pytest.mark.parametrize("odd", [1e-38, 1e-30, 3e18, 1e38, float("inf"), -float("inf")])
@pytest.mark.parametrize("side", [0, 1])
def test_box_iou_with_one_box_out_of_range(library, odd, side):
    boxes = [random_boxes(n, generator(n)) for n in (40, 150)]
    boxes[side][-1, 2] = odd
    check_box_iou(library, *boxes, 32)


@pytest.mark.parametrize("kind", ["iou", "giou"])
@pytest.mark.parametrize("asked", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("one_gradient", [False, True])
def test_paired_box_iou_and_its_gradients(library, kind, asked, one_gradient):
    n, g = 150, generator(3)  # more than the threads of the grid
    boxes1, boxes2 = (random_boxes(n, g, dtype=torch.float64) for _ in range(2))
    boxes2[:5] = boxes1[:5]  # ties
    boxes1[5, 3] = boxes1[5, 1]  # empty
    leaves = [boxes.clone().requires_grad_() for boxes in (boxes1, boxes2)]
    expected = mlc_ext.paired_box_iou(*leaves, kind=kind)
    weights = torch.rand(1 if one_gradient else n, generator=g, dtype=torch.float64)
    expected.backward(weights.expand(n))
    out = torch.zeros(n, dtype=torch.float64)
    grads = [torch.zeros_like(boxes1) if is_asked else None for is_asked in asked]
    functions, generalized = library("driver_boxes"), int(kind == "giou")
    call(functions.shim_paired_box_iou, boxes1, boxes2, n, generalized, out)
    stride = 0 if one_gradient else 1
    call(functions.shim_paired_box_iou_backward, weights, stride, boxes1, boxes2, n, generalized, *grads)
    same_bits(out, expected.detach())
    for grad, leaf in zip(grads, leaves, strict=True):
        if grad is not None:
            same_bits(grad, leaf.grad)


# --- Otsu and mutual labels. In the driver a warp sorts up to 128 values, or with `all_keys` as many as on a GPU; a
# block sorts runs of up to 128 and counts into 16 levels.

SHIM_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "half",
    torch.bfloat16: "bfloat16",
}


def shim_otsu(library, values, ids, num_segments, bins=None, path=1, groups=1, all_keys=0):
    thresholds = values.new_full((num_segments,), -7.0)
    function = getattr(library("driver_otsu"), f"shim_segmented_otsu_{SHIM_TYPES[values.dtype]}")
    call(function, values, ids, values.numel(), num_segments, bins or 0, path, groups, all_keys, thresholds)
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
    sizes = [0, 1, 2, 32, 33, 128, 129, 450, 0]
    values = torch.cat([group_values(kind, n, g) for n in sizes])
    ids = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    order = torch.randperm(values.numel(), generator=g)
    values, ids = values[order].contiguous(), ids[order].contiguous()
    expected = mlc_ext.segmented_otsu(values, ids, len(sizes), bins=bins)
    same_bits(shim_otsu(library, values, ids, len(sizes), bins), expected)


# the sizes around every number of keys a lane, and the largest that a warp sorts: 768 floats, 384 doubles
WARP_SIZES = [1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129]
WARP_SIZES += [255, 256, 257, 383, 384, 385, 511, 512, 513, 767, 768, 769]


@pytest.mark.parametrize("kind", ["uniform", "ties", "heavy tail", "symmetric"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bins", [None, 16])
def test_otsu_of_groups_that_a_warp_sorts(library, kind, dtype, bins):
    g = generator(12)
    values = torch.cat([group_values(kind, n, g) for n in WARP_SIZES]).to(dtype)
    ids = torch.repeat_interleave(torch.arange(len(WARP_SIZES)), torch.tensor(WARP_SIZES))
    order = torch.randperm(values.numel(), generator=g)
    values, ids = values[order].contiguous(), ids[order].contiguous()
    expected = mlc_ext.segmented_otsu(values, ids, len(WARP_SIZES), bins=bins)
    same_bits(shim_otsu(library, values, ids, len(WARP_SIZES), bins, groups=2, all_keys=1), expected)


@pytest.mark.parametrize("bins", [None, 5])
def test_otsu_of_odd_groups_that_a_warp_sorts(library, bins):
    """Equal values, zeros of both signs, subnormal values, one far from all others, and cuts that the grid hides."""
    g, tiny = generator(13), torch.finfo(torch.float32).smallest_normal
    signs = torch.randint(0, 2, (500,), generator=g) * 2.0 - 1
    groups = [
        torch.full((500,), 0.3),
        signs * 0.0,
        torch.cat([signs[:100] * 0.0, signs.abs()]),
        torch.cat([signs[:300], signs[:200] * 0.0]),
        torch.rand(40, generator=g) * tiny,
        torch.rand(513, generator=g) * tiny,
        torch.cat([torch.rand(499, generator=g) * 1e-20, torch.ones(1)]),
        torch.cat([-torch.rand(499, generator=g), torch.full((1,), -3e38)]),
        torch.cat([torch.full((1,), -3e38), torch.full((63,), 3e38)]),
        torch.cat([1 + torch.arange(300) * 2.0**-23, torch.full((1,), 1e16)]),
        torch.arange(512, dtype=torch.float32).flip(0),
        torch.arange(700, dtype=torch.float32) // 100,
    ]
    values = torch.cat(groups)
    ids = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor([len(v) for v in groups]))
    expected = mlc_ext.segmented_otsu(values, ids, len(groups), bins=bins)
    for path in (0, 1):
        same_bits(shim_otsu(library, values, ids, len(groups), bins, path, all_keys=1), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("path", [0, 1, 2])
def test_otsu_of_half_types(library, dtype, path):
    """Few distinct values, as such scores have; a group of each size class."""
    g = generator(14)
    sizes = [1, 30, 128, 129, 200, 0]
    values = torch.rand(sum(sizes), generator=g).to(dtype)
    ids = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    ids = ids[torch.randperm(len(ids), generator=g)].contiguous()
    for bins in (None, 32):
        expected = mlc_ext.segmented_otsu(values, ids, len(sizes), bins=bins)
        same_bits(shim_otsu(library, values, ids, len(sizes), bins, path), expected)


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
@pytest.mark.parametrize(
    ("alpha", "literal", "bins", "dtype"),
    [
        (0.5, False, None, torch.float32),
        (2.0, True, None, torch.float32),
        (0.0, False, 16, torch.float64),
        (0.5, False, None, torch.float16),
        (1.0, False, None, torch.bfloat16),
    ],
)
def test_mutual_labels(library, path, alpha, literal, bins, dtype):
    g = generator(21)
    n, segments = 420, 6
    scores = ((torch.rand(n, generator=g) * 20).floor() / 20).to(dtype)
    ious = torch.rand(n, generator=g).to(dtype)
    ids = (torch.rand(n, generator=g) ** 2 * segments).long() - 1
    scores[ids == 1] = 0.25  # cannot be split
    baseline = torch.randint(-1, 2, (n,), generator=g, dtype=torch.int8)
    baseline[ids < 0] = baseline[ids < 0].clamp(max=0)
    degenerate = "literal" if literal else "baseline"
    expected = mlc_ext.mutual_labels(
        scores, ious, ids, baseline, segments, alpha=alpha, degenerate=degenerate, bins=bins
    )
    actual = [torch.full_like(t, 99) for t in expected]
    function = getattr(library("driver_otsu"), f"shim_mutual_labels_{SHIM_TYPES[dtype]}")
    call(function, scores, ious, ids, baseline, n, segments, alpha, int(literal), bins or 0, path, *actual)
    for got, want in zip(actual, expected, strict=True):
        assert torch.equal(got, want) if want.dtype == torch.int8 else same_bits(got, want) is None


# --- NMS. In the driver tiles of 128 are sorted and merged, and a block has 64 threads.


def shim_nms(
    library,
    boxes,
    scores,
    quality,
    labels,
    iou_threshold,
    score_threshold=None,
    top_k=None,
    limit=None,
    op="shim_nms",
):
    batch, n = scores.shape
    m = n if limit is None else min(limit, n)
    keep, kept_scores = torch.full((batch, m), -9), scores.new_full((batch, m), -9)
    counts = torch.full((batch,), -9)
    name = f"{op}_{'float' if boxes.dtype == torch.float32 else 'double'}"
    threshold = float("-inf") if score_threshold is None else score_threshold
    sizes = (n if top_k is None else min(top_k, n), m)
    function = getattr(library("driver_nms"), name)
    given = (boxes, scores, quality, labels, batch, n, iou_threshold, threshold, *sizes)
    call(function, *given, keep, kept_scores, counts)
    return keep, kept_scores, counts


def nms_case(batch, n, g, dtype=torch.float32, classes=4):
    boxes = random_boxes(batch * n, g, size=30.0, dtype=dtype).view(batch, n, 4)
    scores = (torch.rand(batch, n, generator=g, dtype=torch.float64) * 50).floor().div(50).to(dtype)  # ties
    quality = torch.rand(batch, n, generator=g, dtype=torch.float64).to(dtype).round(decimals=1)
    labels = torch.randint(0, classes, (batch, n), generator=g)
    return boxes, scores, quality, labels


def check_nms(library, boxes, scores, quality, labels, iou_threshold, **limits):
    keep, kept_scores, counts = shim_nms(library, boxes, scores, quality, labels, iou_threshold, **limits)
    given = {
        "score_threshold": limits.get("score_threshold", float("-inf")),
        "pre_nms_top_k": limits.get("top_k"),
        "max_detections": limits.get("limit"),
    }
    expected = mlc_ext.batched_rescored_nms(boxes, scores, quality, labels, iou_threshold, **given)
    assert torch.equal(counts, expected.counts), (counts, expected.counts)
    assert torch.equal(keep, expected.keep)
    same_bits(kept_scores, expected.scores)
    specified = reference.batched_rescored_nms(boxes, scores, quality, labels, iou_threshold, **given)
    assert torch.equal(keep, specified[0])
    return expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [None, 1, 4, 60])
@pytest.mark.parametrize("n", [1, 63, 64, 300])
def test_nms_of_short_and_long_runs(library, dtype, classes, n):
    """Up to 64 candidates of a class go to a warp, more to a block; beyond 128 in all, sorts merge tiles."""
    boxes, scores, quality, labels = nms_case(2, n, generator(n), dtype, classes or 1)
    expected = check_nms(library, boxes, scores, quality, None if classes is None else labels, 0.4)
    assert n < 63 or classes == 60 or 0 < int(expected.counts.min()) < n


def test_nms_limits_are_honoured(library):
    boxes, scores, quality, labels = nms_case(3, 200, generator(1))
    scores[1] = float("-inf")  # an image of padding
    scores[2, 5:] = float("-inf")
    for top_k in (None, 0, 1, 70, 500):
        for limit in (None, 1, 40):
            check_nms(library, boxes, scores, quality, labels, 0.5, score_threshold=0.3, top_k=top_k, limit=limit)
    check_nms(library, boxes, scores, None, None, 0.5, top_k=150, limit=20)


@pytest.mark.parametrize("overlap", [0.0, 1.0])
def test_nms_at_the_ends_of_the_threshold(library, overlap):
    boxes, scores, quality, labels = nms_case(1, 150, generator(9))
    boxes[0, 75:] = boxes[0, :75]  # IoU 1: kept at a threshold of 1
    check_nms(library, boxes, scores, quality, None, overlap)


def test_nms_of_a_long_chain_of_overlaps(library):
    """Each box overlaps the next only: every other one stays, and each decision waits for the one before."""
    n = 200
    x = torch.arange(n, dtype=torch.float32) * 6
    boxes = torch.stack([x, torch.zeros(n), x + 10, torch.full((n,), 10.0)], 1)[None].contiguous()
    scores = torch.linspace(1, 0.1, n)[None].contiguous()
    for labels in (None, torch.zeros(1, n, dtype=torch.int64)):
        expected = check_nms(library, boxes, scores, None, labels, 0.2)
        assert expected.keep[0, : n // 2].tolist() == list(range(0, n, 2))


def test_nms_of_far_flung_labels_and_negative_products(library):
    boxes, scores, quality, labels = nms_case(2, 130, generator(6), classes=3)
    labels = torch.tensor([-(2**63), -1, 2**63 - 1])[labels]
    quality = quality - 0.5
    quality[:, ::7] = 0.0  # products of 0 and -0 are equal
    scores[:, ::14] *= -1
    check_nms(library, boxes, scores, quality, labels, 0.3)


def test_nms_ranks_a_nan_product_last(library):
    boxes, scores, quality, labels = nms_case(1, 100, generator(7))
    boxes = torch.arange(400, dtype=torch.float32).view(1, 100, 4).mul(10)
    boxes[..., 2:] = boxes[..., :2] + 1  # apart: all are kept
    quality[0, 17], scores[0, 18] = float("nan"), float("nan")
    keep, _, counts = shim_nms(library, boxes, scores, quality, labels, 0.5)
    assert counts.item() == 99  # a NaN score is above no threshold
    assert keep[0, 98].item() == 17 and keep[0, 99].item() == -1 and 18 not in keep


# --- the shim itself

THREAD_SANITIZER = ["-fsanitize=thread", "-g"]


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_thread_sanitizer_finds_a_missing_barrier(tmp_path, broken):
    """The kernels are free of races between barriers, and without __syncthreads they would not be."""
    flags = [*THREAD_SANITIZER, *(["-DMLC_SHIM_WITHOUT_BARRIERS"] if broken else [])]
    program = shim_build.build("driver_races", tmp_path / "races", *flags)
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer does not run on this kernel")
    assert ("WARNING: ThreadSanitizer: data race" in done.stderr) == broken, done.stderr[:4000]
    assert (done.returncode == 0) == (not broken)
