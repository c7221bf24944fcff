"""rescored_nms and its batched form against the reference, exact integer arithmetic and symmetries."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, as_boxes, box_lists, on, random_boxes, rng, same_bits, seeds

from mlc_ext import NmsResult, batched_rescored_nms, reference, rescored_nms

INF = float("inf")
HUGE = 2**62


def nms(device, boxes, scores, quality, labels, threshold):
    keep = rescored_nms(*on(device, boxes, scores, quality, labels), threshold)
    assert keep.device.type == device and keep.dtype == torch.int64
    return keep.cpu()


def batched(device, boxes, scores, quality, labels, threshold, **limits):
    result = batched_rescored_nms(*on(device, boxes, scores, quality, labels), threshold, **limits)
    assert all(t.device.type == device for t in result)
    return NmsResult(*(t.cpu() for t in result))


def brute_force(boxes, scores, labels, quarters: int) -> list[int]:
    """torchvision's definition on integer boxes at the IoU threshold quarters / 4, in integers."""
    boxes = np.asarray(boxes, dtype=object).reshape(-1, 4)
    alive, keep = list(np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")), []

    def area(b):
        return max(b[2] - b[0], 0) * max(b[3] - b[1], 0)

    def suppresses(i, j):
        a, b = boxes[i], boxes[j]
        inter = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
        return labels[i] == labels[j] and 4 * inter > quarters * (area(a) + area(b) - inter)

    while alive:
        best = alive.pop(0)
        keep.append(int(best))
        alive = [j for j in alive if not suppresses(best, j)]
    return keep


@st.composite
def integer_cases(draw):
    corner, size = st.integers(-4, 8), st.integers(0, 8)
    box = st.tuples(corner, corner, size, size).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
    boxes = draw(st.lists(box, max_size=24))
    n = len(boxes)
    scores = draw(st.lists(st.integers(0, 8).map(lambda s: s / 8), min_size=n, max_size=n))
    quality = draw(st.none() | st.lists(st.integers(0, 4).map(lambda q: q / 4), min_size=n, max_size=n))
    names = draw(st.sampled_from([[0], [0, 1, 2], [-5, 3, 2**40], [-HUGE, HUGE, 0, 1]]))
    labels = draw(st.none() | st.lists(st.sampled_from(names), min_size=n, max_size=n))
    return boxes, scores, quality, labels


@given(integer_cases(), st.integers(0, 4))
def test_brute_force(device, case, quarters):
    """Products, areas and thresholds are exact here, so ties and IoUs on the threshold are real."""
    boxes, scores, quality, labels = case
    product = scores if quality is None else [s * q for s, q in zip(scores, quality, strict=True)]
    expected = brute_force(boxes, product, labels or [0] * len(boxes), quarters)
    optional = [
        None if quality is None else torch.tensor(quality),
        None if labels is None else torch.tensor(labels),
    ]
    if labels == []:
        optional[1] = torch.zeros(0, dtype=torch.int64)
    keep = nms(device, as_boxes(boxes), torch.tensor(scores), *optional, quarters / 4)
    assert keep.tolist() == expected


@st.composite
def batches(draw):
    """[B, N] inputs of one type with ties, padding, and limits that bite."""
    batch, n, dtype = draw(st.integers(0, 3)), draw(st.integers(0, 14)), draw(st.sampled_from(DTYPES))
    g = rng(draw(seeds))
    levels = draw(st.sampled_from([3, 1000]))
    boxes = torch.stack([random_boxes(n, g, extent=40) for _ in range(batch)]) if batch else torch.zeros(0, n, 4)
    scores = torch.randint(0, levels + 1, (batch, n), generator=g) / levels
    scores = scores.masked_fill(torch.rand(batch, n, generator=g) < 0.15, -INF)
    quality = torch.randint(0, levels + 1, (batch, n), generator=g) / levels if draw(st.booleans()) else None
    labels = torch.randint(-2, 3, (batch, n), generator=g) if draw(st.booleans()) else None
    limits = {
        "score_threshold": draw(st.sampled_from([-INF, 0.0, 1 / 3, 0.05, 1.0, INF])),
        "pre_nms_top_k": draw(st.none() | st.integers(0, 16)),
        "max_detections": draw(st.none() | st.integers(0, 16)),
    }
    threshold = draw(st.sampled_from([0.0, 0.3, 0.5, 0.6, 1.0]))
    tensors = [None if t is None else t.to(dtype) for t in (boxes, scores, quality)]
    return *tensors, labels, threshold, limits


@given(batches())
def test_reference(device, case):
    *inputs, threshold, limits = case
    got = batched(device, *inputs, threshold, **limits)
    for ours, theirs in zip(got, reference.batched_rescored_nms(*inputs, threshold, **limits), strict=True):
        same_bits(ours, theirs)


@given(box_lists(max_size=16), st.sampled_from(DTYPES), seeds)
def test_reference_on_odd_boxes(device, boxes, dtype, seed):
    """Empty and inverted boxes suppress nothing and are not suppressed."""
    boxes, n, g = as_boxes(boxes, dtype), len(boxes), rng(seed)
    scores, labels = torch.rand(n, generator=g).to(dtype), torch.randint(0, 2, (n,), generator=g)
    keep = nms(device, boxes, scores, None, labels, 0.5)
    same_bits(keep, reference.rescored_nms(boxes, scores, None, labels, 0.5)[0])
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(1).nonzero().flatten()
    assert set(empty.tolist()) <= set(keep.tolist())


@given(batches())
def test_batched_is_single_per_image(device, case):
    boxes, scores, quality, labels, threshold, _ = case
    got = batched(device, boxes, scores, quality, labels, threshold)
    assert got.keep.shape == got.scores.shape == scores.shape and got.counts.shape == scores.shape[:1]
    for b in range(len(boxes)):
        optional = [None if t is None else t[b] for t in (quality, labels)]
        keep, count = nms(device, boxes[b], scores[b], *optional, threshold), got.counts[b].item()
        assert got.keep[b, :count].tolist() == keep.tolist()
        assert (got.keep[b, count:] == -1).all() and (got.scores[b, count:] == 0).all()


@given(seeds, st.integers(0, 60))
def test_permutation(device, seed, n):
    g = rng(seed)
    boxes, labels = random_boxes(n, g).float(), torch.randint(0, 3, (n,), generator=g)
    scores = (torch.randperm(n, generator=g) + 1) / 64.0  # no ties
    keep, order = nms(device, boxes, scores, None, labels, 0.4), torch.randperm(n, generator=g)
    assert order[nms(device, boxes[order], scores[order], None, labels[order], 0.4)].tolist() == keep.tolist()


@given(batches(), st.integers(-3, 3), st.integers(-3, 3))
def test_scaling_by_powers_of_two(device, case, of_boxes, of_scores):
    """Scaled boxes change nothing; scaled scores scale those of the kept."""
    boxes, scores, quality, labels, threshold, limits = case
    boxes, scores = boxes.double(), scores.double()
    quality = None if quality is None else quality.double()
    scale = 2.0**of_scores
    limits = limits | {"score_threshold": limits["score_threshold"] * scale}
    got = batched(device, boxes * 2.0**of_boxes, scores * scale, quality, labels, threshold, **limits)
    limits = limits | {"score_threshold": limits["score_threshold"] / scale}
    keep, kept_scores, counts = batched(device, boxes, scores, quality, labels, threshold, **limits)
    for ours, theirs in zip(got, (keep, kept_scores * scale, counts), strict=True):
        same_bits(ours, theirs)


@given(batches())
def test_what_is_kept_is_kept_again(device, case):
    boxes, scores, quality, labels, threshold, _ = case
    for b in range(len(boxes)):
        optional = [None if t is None else t[b] for t in (quality, labels)]
        keep = nms(device, boxes[b], scores[b], *optional, threshold)
        again = [None if t is None else t[keep] for t in (boxes[b], scores[b], *optional)]
        assert nms(device, *again, threshold).tolist() == list(range(len(keep)))


@given(seeds)
def test_no_two_kept_boxes_overlap_and_no_box_is_dropped_for_nothing(device, seed):
    g = rng(seed)
    boxes, scores = random_boxes(80, g), torch.rand(80, generator=g, dtype=torch.float64)
    keep = nms(device, boxes, scores, None, None, 0.5)
    ious = reference.box_iou(boxes, boxes)
    assert (ious[keep][:, keep].triu(1) <= 0.5).all()
    assert (scores[keep].diff() <= 0).all()
    for dropped in set(range(80)) - set(keep.tolist()):
        assert ((ious[keep, dropped] > 0.5) & (scores[keep] >= scores[dropped])).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_iou_on_the_threshold_is_kept(device, dtype):
    boxes = as_boxes([[0, 0, 4, 2], [0, 0, 2, 2], [0, 0, 4, 1]], dtype)  # 1/2, 1/2 with the first; 1/3 between
    scores = torch.tensor([0.9, 0.8, 0.7]).to(dtype)
    assert nms(device, boxes, scores, None, None, 0.5).tolist() == [0, 1, 2]
    assert nms(device, boxes, scores, None, None, 0.49).tolist() == [0]
    same = boxes[:1].repeat(3, 1)
    assert nms(device, same, scores, None, None, 1.0).tolist() == [0, 1, 2]
    assert nms(device, same, scores, None, None, 0.99).tolist() == [0]


def test_equal_products_keep_the_lower_index(device):
    boxes = as_boxes([[0, 0, 4, 4]] * 3 + [[10, 10, 14, 14]])
    scores, quality = torch.tensor([0.25, 0.5, 1.0, 0.5]), torch.tensor([1.0, 0.5, 0.25, 0.5])
    assert nms(device, boxes, scores, quality, None, 0.5).tolist() == [0, 3]
    zeros = torch.tensor([-0.0, 0.0, -0.0, 0.0])  # -0 and 0 are one product
    assert nms(device, boxes, zeros, None, None, 0.5).tolist() == [0, 3]


def test_quality_decides_the_rank(device):
    boxes = as_boxes([[0, 0, 10, 10], [0, 0, 10, 9]])
    scores, quality = torch.tensor([0.9, 0.6]), torch.tensor([0.5, 0.9])
    assert nms(device, boxes, scores, None, None, 0.5).tolist() == [0]
    assert nms(device, boxes, scores, quality, None, 0.5).tolist() == [1]
    got = batched(device, boxes[None], scores[None], quality[None], None, 0.5)
    assert got.keep.tolist() == [[1, -1]] and got.counts.tolist() == [1]
    same_bits(got.scores, torch.stack([scores[1] * quality[1], torch.tensor(0.0)])[None])


@given(seeds)
def test_quality_of_ones_is_none(device, seed):
    g = rng(seed)
    boxes, scores = random_boxes(30, g).float()[None], torch.rand(1, 30, generator=g)
    for a, b in zip(
        batched(device, boxes, scores, torch.ones(1, 30), None, 0.4),
        batched(device, boxes, scores, None, None, 0.4),
        strict=True,
    ):
        same_bits(a, b)


def apart(n):
    """n boxes that do not touch."""
    low = torch.arange(n)[:, None].expand(n, 4) * 10.0
    return (low + torch.tensor([0.0, 0.0, 5.0, 5.0]))[None]


def test_score_threshold_is_strict_and_on_the_raw_score(device):
    scores, quality = torch.tensor([[0.5, 0.75, 0.25, 0.5]]), torch.tensor([[1.0, 0.1, 1.0, 1.0]])
    got = batched(device, apart(4), scores, quality, None, 0.5, score_threshold=0.5)
    assert got.keep.tolist() == [[1, -1, -1, -1]]  # its product, 0.075, is below the threshold
    nearest = torch.tensor([[0.05, 0.05]]).nextafter(torch.tensor([[1.0, 0.0]]))
    got = batched(device, apart(2), nearest, None, None, 0.5, score_threshold=0.05)
    assert got.keep.tolist() == [[0, -1]]


def test_pre_nms_top_k_goes_by_the_product(device):
    scores, quality = torch.tensor([[0.9, 0.8, 0.7, 0.6]]), torch.tensor([[0.1, 0.9, 1.0, 0.2]])
    for top_k, expected in (
        (0, []),
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 2, 3]),
        (9, [1, 2, 3, 0]),
        (None, [1, 2, 3, 0]),
    ):
        got = batched(device, apart(4), scores, quality, None, 0.5, pre_nms_top_k=top_k)
        assert got.keep[0, : got.counts[0]].tolist() == expected
    ties = torch.full((1, 4), 0.5)
    assert batched(device, apart(4), ties, None, None, 0.5, pre_nms_top_k=2).keep.tolist() == [[0, 1, -1, -1]]
    # candidates that suppression drops have taken a place: top-k comes before it
    same = torch.zeros(1, 4, 4) + torch.tensor([0.0, 0.0, 5.0, 5.0])
    same[0, 3] += 100
    assert batched(device, same, scores, None, None, 0.5, pre_nms_top_k=3).keep[0].tolist() == [0, -1, -1, -1]


def test_max_detections_is_the_width(device):
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
    for most in (0, 2, 4, 7):
        got = batched(device, apart(4), scores, None, None, 0.5, max_detections=most)
        assert got.keep.tolist() == [list(range(min(most, 4)))] and got.counts.tolist() == [min(most, 4)]


def test_padding(device):
    boxes, scores = apart(3), torch.tensor([[-INF, 0.5, -INF]])
    got = batched(device, boxes, scores, torch.ones(1, 3), None, 0.5)
    assert got.keep.tolist() == [[1, -1, -1]] and got.counts.tolist() == [1]
    nan_boxes = boxes.clone()
    nan_boxes[0, 0] = float("nan")  # what is padding is not looked at
    assert batched(device, nan_boxes, scores, None, None, 0.5).keep.tolist() == [[1, -1, -1]]
    assert batched(device, boxes, torch.full((1, 3), -INF), None, None, 0.5).counts.tolist() == [0]
    got = batched(device, boxes, torch.tensor([[-3.0, -2.0, -INF]]), None, None, 0.5)
    assert got.keep.tolist() == [[1, 0, -1]]  # negative scores (logits) rank as any other


@pytest.mark.parametrize(("batch", "n"), [(0, 0), (0, 5), (3, 0), (1, 0)])
def test_nothing(device, batch, n):
    empty = (
        torch.zeros(batch, n, 4),
        torch.zeros(batch, n),
        torch.zeros(batch, n),
        torch.zeros(batch, n).long(),
    )
    got = batched(device, *empty, 0.5)
    assert [t.shape for t in got] == [(batch, n), (batch, n), (batch,)] and not got.counts.any()


def test_no_boxes(device):
    assert nms(device, torch.zeros(0, 4), torch.zeros(0), None, None, 0.5).shape == (0,)
    assert nms(device, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), torch.zeros(0).long(), 0.5).shape == (0,)


@given(seeds, st.sampled_from([0.0, 1e5, 1e7]))
def test_classes_are_independent_and_never_shifted(device, seed, offset):
    """At 1e7 a float32 resolves whole pixels: shifting coordinates to part the classes moves boxes."""
    g = rng(seed)
    corner = torch.randint(0, 40, (60, 2), generator=g)
    boxes = (torch.cat([corner, corner + torch.randint(1, 20, (60, 2), generator=g)], 1) + offset).float()
    scores = torch.randperm(60, generator=g) / 64
    labels = torch.tensor([-HUGE, -1, 0, 7, HUGE])[torch.randint(0, 5, (60,), generator=g)]
    keep = nms(device, boxes, scores, None, labels, 0.5)
    per_class = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        per_class += members[nms(device, boxes[members], scores[members], None, None, 0.5)].tolist()
    assert sorted(keep.tolist()) == sorted(per_class)
    near = boxes - offset
    assert keep.tolist() == nms(device, near, scores, None, labels, 0.5).tolist()


def test_many_boxes(device, threads):
    threads(2)
    g = rng(5)
    boxes, scores = (
        random_boxes(4000, g, extent=300).float().view(2, 2000, 4),
        torch.rand(2, 2000, generator=g),
    )
    labels = torch.randint(0, 4, (2, 2000), generator=g)
    inputs = boxes, scores, torch.rand(2, 2000, generator=g), labels, 0.5
    limits = {"score_threshold": 0.05, "pre_nms_top_k": 900, "max_detections": 300}
    for ours, theirs in zip(
        batched(device, *inputs, **limits), reference.batched_rescored_nms(*inputs, **limits), strict=True
    ):
        same_bits(ours, theirs)


def test_views_and_gradients(device):
    g = rng()
    both = torch.rand(20, 2, generator=g).to(device)
    boxes = random_boxes(20, g).float().to(device).t().contiguous().t().requires_grad_()
    scores, quality = both[:, 0], both[:, 1]
    keep = rescored_nms(boxes, scores, quality, None, 0.4)
    expected = rescored_nms(boxes.contiguous(), scores.contiguous(), quality.contiguous(), None, 0.4)
    assert torch.equal(keep, expected)
    assert not batched_rescored_nms(boxes[None], scores[None], None, None, 0.5).scores.requires_grad
