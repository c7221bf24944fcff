"""iou_nms' CUDA device code, run on the CPU through tests/cuda_shim, against the CPU operator and reference.py.

In the driver tiles of 128 are sorted and merged, a block has 64 threads, and a class of more than 64 candidates is
suppressed 64 at a time.
"""

import pytest
import torch
from test_cuda_shim import (  # noqa: F401
    generator,
    library,
    nms_case,
    pytestmark,
    same_bits,
    shim_nms,
)

import mlc_ext
from mlc_ext import reference

INF = float("inf")


def check(library, boxes, scores, quality, labels, iou_threshold, **limits):  # noqa: F811
    given = (boxes, scores, quality, labels, iou_threshold)
    keep, kept_scores, counts = shim_nms(library, *given, op="shim_iou_nms", **limits)
    named = {
        "score_threshold": limits.get("score_threshold", -INF),
        "pre_nms_top_k": limits.get("top_k"),
        "max_detections": limits.get("limit"),
    }
    expected = mlc_ext.batched_iou_nms(*given, **named)
    assert torch.equal(counts, expected.counts), (counts, expected.counts)
    assert torch.equal(keep, expected.keep)
    same_bits(kept_scores, expected.scores)
    for b, count in enumerate(counts.tolist()):
        one = boxes[b], scores[b], quality[b], None if labels is None else labels[b], iou_threshold
        specified, best = reference.iou_nms(*one, **named)
        assert torch.equal(keep[b, :count], specified)
        same_bits(kept_scores[b, :count], best + 0.0)
    return expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [None, 1, 4, 60])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 300])
def test_short_and_long_runs(library, dtype, classes, n):  # noqa: F811
    boxes, scores, quality, labels = nms_case(2, n, generator(n), dtype, classes or 1)
    expected = check(library, boxes, scores, quality, None if classes is None else labels, 0.4)
    assert n < 63 or classes == 60 or 0 < int(expected.counts.min()) < n


@pytest.mark.parametrize("labeled", [True, False])
def test_limits(library, labeled):  # noqa: F811
    boxes, scores, quality, labels = nms_case(3, 200, generator(1), classes=3)
    scores[1] = -INF  # an image of padding
    scores[2, 5:] = -INF
    given = boxes, scores, quality, labels if labeled else None
    for top_k, limit in ((None, None), (0, None), (1, 1), (70, 40), (199, 1), (200, 40), (500, 500)):
        check(library, *given, 0.5, score_threshold=0.3, top_k=top_k, limit=limit)


def test_a_top_k_goes_by_score_and_ties_to_the_lower_index(library):  # noqa: F811
    """Equal scores throughout: the first boxes stay, though the last have the best quality."""
    boxes, scores, quality, labels = nms_case(2, 150, generator(2))
    scores[:] = 0.5
    quality = torch.arange(150.0).expand(2, 150).contiguous()
    expected = check(library, boxes, scores, quality, labels, 0.9, top_k=40)
    assert 0 < expected.keep.max() < 40


@pytest.mark.parametrize("labeled", [True, False])
def test_a_box_joins_the_first_kept_box_that_overlaps_it(library, labeled):  # noqa: F811
    """Every second box of a row is kept; each one between overlaps two kept ones and belongs to the better ranked."""
    n = 201
    x = torch.arange(n, dtype=torch.float32) * 5
    boxes = torch.stack([x, torch.zeros(n), x + 10, torch.full((n,), 10.0)], 1)[None].contiguous()
    even = torch.arange(n) % 2 == 0
    quality = torch.where(even, 2.0, 1.0)
    places = torch.randperm(n, generator=generator(4))
    quality = (quality + places / 1000)[None].contiguous()  # the kept ranked at random
    scores = torch.where(even, 0.1, 0.2 + torch.arange(n) / 1000)[None].contiguous()
    labels = torch.zeros(1, n, dtype=torch.int64) if labeled else None
    expected = check(library, boxes, scores, quality, labels, 0.2)
    assert expected.counts.item() == 101 and (expected.keep[0, :101] % 2 == 0).all()
    q, s = quality[0], scores[0]
    best = {i: s[i].item() for i in range(0, n, 2)}
    for i in range(1, n, 2):
        owner = i - 1 if q[i - 1] > q[i + 1] else i + 1
        best[owner] = max(best[owner], s[i].item())
    assert expected.scores[0, :101].tolist() == sorted(best.values(), reverse=True)


@pytest.mark.parametrize("size", [40, 500])
def test_one_cluster_takes_the_best_score_of_all(library, size):  # noqa: F811
    """The best score belongs to a box of the last rank, in the last chunk of 64."""
    boxes = torch.tensor([0.0, 0.0, 9.0, 9.0]).repeat(1, size, 1)
    quality = torch.linspace(1, 0, size)[None].contiguous()
    scores = torch.full((1, size), 0.25)
    scores[0, -1] = 0.75
    expected = check(library, boxes, scores, quality, None, 0.5)
    assert expected.counts.tolist() == [1] and expected.scores[0, 0] == 0.75 and expected.keep[0, 0] == 0


@pytest.mark.parametrize("overlap", [0.0, 1.0])
def test_at_the_ends_of_the_threshold(library, overlap):  # noqa: F811
    boxes, scores, quality, labels = nms_case(1, 150, generator(9))
    boxes[0, 75:] = boxes[0, :75]  # IoU 1: kept at a threshold of 1
    check(library, boxes, scores, quality, None, overlap)


def test_far_flung_labels_negative_scores_and_zeros_of_both_signs(library):  # noqa: F811
    boxes, scores, quality, labels = nms_case(2, 130, generator(6), classes=3)
    labels = torch.tensor([-(2**63), -1, 2**63 - 1])[labels]
    scores -= 0.5
    scores[:, ::3], scores[:, ::6] = 0.0, -0.0  # one score, and it comes out as 0
    quality[:, ::5], quality[:, ::10] = 0.0, -0.0
    expected = check(library, boxes, scores, quality, labels, 0.3)
    assert (expected.scores == 0).sum() > expected.keep.numel() - expected.counts.sum()
    check(library, boxes, scores.sub(5), quality, None, 0.3)


def test_infinite_scores_and_qualities(library):  # noqa: F811
    boxes, scores, quality, labels = nms_case(1, 140, generator(3))
    scores[0, ::9] = INF
    quality[0, ::4], quality[0, 1::4] = INF, -INF
    expected = check(library, boxes, scores, quality, labels, 0.4)
    assert expected.scores[0, 0] == INF


def test_nan_does_no_harm(library):  # noqa: F811
    """A NaN quality ranks last, a NaN score is no candidate, a NaN box overlaps nothing."""
    boxes, scores, quality, _ = nms_case(1, 140, generator(7))
    boxes = torch.arange(560, dtype=torch.float32).view(1, 140, 4).mul(10)
    boxes[..., 2:] = boxes[..., :2] + 1  # apart
    boxes[0, 17] = boxes[0, 3]  # 17 overlaps 3 and ranks behind it, whatever 3 has
    scores[:], scores[0, 17] = 0.5, 0.875
    quality[0, 17], scores[0, 18] = float("nan"), float("nan")
    boxes[0, 19, 2] = float("nan")
    for top_k in (None, 139):
        keep, found, counts = shim_nms(library, boxes, scores, quality, None, 0.5, top_k=top_k, op="shim_iou_nms")
        assert counts.item() == 138
        assert keep[0, 0] == 3 and found[0, 0] == 0.875
        assert 19 in keep and 17 not in keep and 18 not in keep
