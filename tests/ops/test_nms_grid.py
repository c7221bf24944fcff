"""NMS of many boxes without classes, which the CPU finds by a grid of centers: no suppressed box may be missed.

Compared with the rule applied to every pair. The scenes put boxes where a bound that is a little too tight, or that
trusts rounded areas, misses some.
"""

import numpy as np
import pytest
import torch
from comparisons import rng, same_bits

import mlc_ext
from mlc_ext import reference

INF = float("inf")
INTEGERS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}
TINY = {torch.float64: -512}
"""Exponents of sides whose areas are near the smallest numbers; -63 in float32."""


def first_suppressors(boxes, threshold: float) -> np.ndarray:
    """Of boxes in rank order: the first kept one that suppresses each, or itself where it is kept."""
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    x1, y1, x2, y2 = boxes.unbind(1)
    area = (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)
    width = torch.minimum(x2[:, None], x2) - torch.maximum(x1[:, None], x1)
    height = torch.minimum(y2[:, None], y2) - torch.maximum(y1[:, None], y1)
    inter = width.clamp(min=0) * height.clamp(min=0)
    overlaps = (inter > torch.tensor(threshold, dtype=boxes.dtype) * (area[:, None] + area - inter)).numpy()
    owner, kept = np.arange(len(boxes)), np.zeros(len(boxes), dtype=bool)
    for i, row in enumerate(overlaps):
        by = np.flatnonzero(row & kept)
        kept[i] = len(by) == 0
        owner[i] = i if kept[i] else by[0]
    return owner


def descending(n: int, dtype: torch.dtype):
    """n different numbers of the type, from 1 down."""
    integer = INTEGERS.get(dtype, torch.int64)
    return (torch.ones(1, dtype=dtype).view(integer) - torch.arange(n).to(integer)).view(dtype)


def check(boxes, threshold: float, seed: int = 0) -> int:
    """Both operators on boxes in rank order, shuffled; returns how many are kept."""
    n, values = len(boxes), descending(len(boxes), boxes.dtype)
    owner = first_suppressors(boxes, threshold)
    kept = np.flatnonzero(owner == np.arange(n))
    index = torch.randperm(n, generator=rng(seed))  # of the box of each rank
    shuffled, quality = torch.empty_like(boxes), torch.empty_like(values)
    shuffled[index], quality[index] = boxes, values
    keep = mlc_ext.rescored_nms(shuffled, quality, None, None, threshold)
    assert torch.equal(keep, index[kept])

    scores = values[torch.randperm(n, generator=rng(seed + 1))]
    best = torch.stack([scores[index][owner == k].max() for k in kept])
    place = np.lexsort((index[kept].numpy(), -best.double().numpy()))
    keep, found = mlc_ext.iou_nms(shuffled, scores, quality, None, threshold)
    assert torch.equal(keep, index[kept][place])
    same_bits(found, best[place])
    return len(kept)


def uniform(g, n: int, low: float, high: float):
    return low + (high - low) * torch.rand(n, generator=g, dtype=torch.float64)


def at(x1, y1, width, height):
    return torch.stack((x1, y1, x1 + width, y1 + height), 1)


def behind_others(g, boxes, *, extent=1000.0):
    """300 small boxes that are all kept come first; this makes the kernel sort the later boxes into a grid."""
    cell = torch.randperm(400, generator=g)[:300]
    small = torch.stack((cell % 20, cell // 20, cell % 20, cell // 20), 1) * (extent / 20)
    return torch.cat((small + torch.tensor([1.0, 1.0, 3.0, 3.0]) * (extent / 1000), boxes))


def on_the_bound(g, threshold: float, dtype):
    """Pairs as far from each other as boxes that overlap by the threshold can be, just inside of it or just outside:
    one within the other, at an edge of it; along either axis; either is kept."""
    n, t = 500, max(threshold, 0.02)
    length, thickness = uniform(g, n, 20, 250), uniform(g, n, 0.5, 2)
    start, across = uniform(g, n, 0, 1000), uniform(g, n, 0, 1000)
    longer = length / t * (1 + torch.tensor([-(2.0**-9), -(2.0**-18), 0.0, 2.0**-9]).repeat(n // 4))
    at_end = torch.rand(n, generator=g) < 0.5
    inner = at(start, across, length, thickness)
    outer = at(torch.where(at_end, start + length - longer, start), across, longer, thickness)
    vertical, first = torch.rand(n, generator=g) < 0.5, torch.rand(n, generator=g) < 0.5
    inner, outer = (torch.where(vertical[:, None], b[:, [1, 0, 3, 2]], b) for b in (inner, outer))
    pair = torch.where(first[:, None], inner, outer), torch.where(first[:, None], outer, inner)
    return behind_others(g, torch.cat(pair))


def mixed_scales(g, threshold: float, dtype):
    """Sides of 2^-8 to 2^9 everywhere, several near each other at each scale."""
    n = 1300
    side = torch.exp2(torch.randint(-8, 10, (n,), generator=g).double())
    width, height = side * uniform(g, n, 0.5, 1.5), side * uniform(g, n, 0.5, 1.5)
    x, y = (side * torch.randint(0, 3, (n,), generator=g) + side * uniform(g, n, -0.4, 0.4) for _ in range(2))
    return behind_others(g, at(x, y, width, height))


def clusters(g, threshold: float, dtype):
    """Many near each of a few objects, on negative coordinates too."""
    center, size = uniform(g, 240, -900, 900).view(120, 2), uniform(g, 240, 20, 200).view(120, 2)
    boxes = torch.cat((center, center + size), 1).repeat(12, 1)
    return behind_others(g, boxes + 6 * torch.randn(len(boxes), 4, generator=g, dtype=torch.float64))


def coarse(g, threshold: float, dtype):
    """Whole numbers: overlaps on the threshold, equal boxes and sides of 0."""
    n = 1400
    corner, size = torch.randint(-30, 30, (n, 2), generator=g), torch.randint(0, 5, (n, 2), generator=g)
    return torch.cat((corner, corner + size), 1).double()


def odd_ones_between(g, threshold: float, dtype):
    """Clusters with inverted, empty, infinite and huge boxes between, and boxes of almost no width."""
    boxes = clusters(g, threshold, dtype)
    odd = torch.rand(len(boxes), generator=g) < 0.1
    kinds = torch.tensor(
        [
            [50.0, 50.0, 20.0, 20.0],
            [50.0, 50.0, 50.0, 90.0],
            [-INF, 0.0, INF, 100.0],
            [INF, INF, INF, INF],
            [-1e30, -1e30, 1e30, 1e30],
            [1e30, 1e30, 2e30, 2e30],
            [-3e38, 10.0, 3e38, 11.0],
            [0.0, 0.0, 1e-42, 1e17],
            [0.0, 0.0, 1e-42, 1.5e17],
            [0.0, 0.0, 1e-20, 1e-20],
        ],
        dtype=torch.float64,
    )
    boxes[odd] = kinds[torch.randint(0, len(kinds), (int(odd.sum()),), generator=g)]
    return boxes


def rounded_areas(g, threshold: float, dtype):
    """Areas of a few of the smallest numbers: boxes overlap by more than the threshold that are far from doing so."""
    n, unit = 1400, 2.0 ** (TINY.get(dtype, -63) - 12)
    side = uniform(g, 2 * n, 0.7, 2).view(n, 2)
    corner = uniform(g, 2 * n, 0, 30).view(n, 2)
    return torch.cat((corner, corner + side), 1) * unit


def far_away(g, threshold: float, dtype):
    """Sides of a few steps of the numbers: every second sum of coordinates is rounded, by a step."""
    n, base = 1400, 2.0**14 if dtype == torch.float16 else 2.0**22
    corner, size = torch.randint(0, 64, (n, 2), generator=g), torch.randint(1, 13, (n, 2), generator=g)
    corner[:, 1], size[:, 1] = corner[:, 1] // 8 * 8, 8
    return base * (1 + torch.finfo(dtype).eps * torch.cat((corner, corner + size), 1).double())


SCENES = [on_the_bound, mixed_scales, clusters, coarse, odd_ones_between, rounded_areas, far_away]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.1, 0.25, 0.5, 0.65, 0.75, 0.95, 1.0])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_every_pair(scene, threshold, dtype):
    boxes = scene(rng(7), threshold, dtype).to(dtype)
    boxes = boxes.nan_to_num(nan=0.0, posinf=INF, neginf=-INF)
    assert len(boxes) > 1024
    check(boxes, threshold)


@pytest.mark.parametrize("seed", range(8))
def test_thresholds_and_sizes_at_random(seed):
    g = rng(seed)
    threshold = torch.rand(1, generator=g).item()
    scene = SCENES[seed % 3]
    kept = check(scene(g, threshold, torch.float32).float(), threshold, seed)
    assert kept > 300


@pytest.mark.parametrize("scale", [2.0**-45, 2.0**-55, 2.0**-70, 2.0**40, 2.0**45, 2.0**60, 1e30])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_scales_where_boxes_leave_the_grid(scale, threshold):
    check((clusters(rng(3), threshold, torch.float32) * scale).float(), threshold)


def test_the_reference_says_the_same():
    boxes = clusters(rng(1), 0.5, torch.float32).float()
    scores, quality = torch.rand(2, len(boxes), generator=rng(2))
    keep = mlc_ext.rescored_nms(boxes, scores, quality, None, 0.5)
    assert torch.equal(keep, reference.rescored_nms(boxes, scores, quality, None, 0.5)[0])


def test_one_class_is_none():
    """With labels every pair is compared."""
    g = rng(4)
    boxes = clusters(g, 0.5, torch.float32).float()[None]
    scores, quality = torch.rand(2, 1, boxes.shape[1], generator=g)
    labels = torch.zeros(1, boxes.shape[1], dtype=torch.int64)
    for nms in (mlc_ext.batched_rescored_nms, mlc_ext.batched_iou_nms):
        for limits in ({}, {"score_threshold": 0.1}, {"pre_nms_top_k": 1100}, {"max_detections": 1100}):
            for ours, theirs in zip(
                nms(boxes, scores, quality, None, 0.4, **limits),
                nms(boxes, scores, quality, labels, 0.4, **limits),
                strict=True,
            ):
                same_bits(ours, theirs)


def test_images_of_a_batch_do_not_share_what_they_keep():
    images = [scene(rng(5), 0.5, torch.float32).float()[:1300] for scene in (clusters, mixed_scales, coarse)]
    boxes = torch.stack([*images, *images])
    scores = torch.rand(3, 1300, generator=rng(6)).repeat(2, 1)
    result = mlc_ext.batched_rescored_nms(boxes, scores, None, None, 0.5)
    for b in range(6):
        alone = mlc_ext.rescored_nms(boxes[b], scores[b], None, None, 0.5)
        assert torch.equal(result.keep[b, : result.counts[b]], alone)
