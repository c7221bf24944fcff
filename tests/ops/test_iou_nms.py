"""iou_nms against reference.py and IoU-Net's Algorithm 1 written as it stands."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import on, rng, same_bits, same_values, seeds

import mlc_ext
from mlc_ext import reference


def scene(seed: int, n: int, *, coarse: bool, classes: int = 3, dtype=torch.float32):
    """Boxes, scores, qualities and labels; coarse ones tie often and meet thresholds exactly."""
    generator = rng(seed)
    corner, size = torch.rand(n, 2, generator=generator) * 40, torch.rand(n, 2, generator=generator) * 30
    boxes = torch.cat((corner, corner + size), 1)
    scores, quality = torch.rand(n, generator=generator), torch.rand(n, generator=generator)
    if coarse:
        boxes, scores, quality = (boxes / 8).round() * 8, (scores * 4).round() / 4, (quality * 4).round() / 4
    labels = torch.randint(0, classes, (n,), generator=generator)
    return boxes.to(dtype), scores.to(dtype), quality.to(dtype), labels


def nms(device, boxes, scores, quality, labels, threshold):
    keep, found = mlc_ext.iou_nms(*on(device, boxes, scores, quality, labels), threshold)
    assert keep.device.type == found.device.type == device
    return keep.cpu(), found.cpu()


def batched(device, boxes, scores, quality, labels, threshold, **limits):
    result = mlc_ext.batched_iou_nms(*on(device, boxes, scores, quality, labels), threshold, **limits)
    assert all(t.device.type == device for t in result)
    return mlc_ext.NmsResult(*(t.cpu() for t in result))


def algorithm_1(boxes, scores, quality, threshold):
    """IoU-Net's listing for one class: the best of the remaining takes and removes what it overlaps."""
    remaining, found = list(range(len(boxes))), []
    iou = reference.box_iou(boxes, boxes)
    while remaining:
        best = max(remaining, key=lambda i: (quality[i].item(), -i))
        remaining.remove(best)
        cluster = [i for i in remaining if iou[best, i] > threshold]
        found.append((max(scores[i].item() for i in [best, *cluster]), best))
        remaining = [i for i in remaining if i not in cluster]
    return sorted(found, key=lambda entry: (-entry[0], entry[1]))


@given(
    seed=seeds,
    n=st.integers(0, 40),
    coarse=st.booleans(),
    labeled=st.booleans(),
    threshold=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_equals_reference(device, seed, n, coarse, labeled, threshold, dtype):
    boxes, scores, quality, labels = scene(seed, n, coarse=coarse, dtype=dtype)
    labels = labels if labeled else None
    keep, found = nms(device, boxes, scores, quality, labels, threshold)
    expected_keep, expected = reference.iou_nms(boxes, scores, quality, labels, threshold)
    assert torch.equal(keep, expected_keep)
    same_bits(found, expected)


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_paper_listing(device, seed):
    boxes, scores, quality, _ = scene(seed, 60, coarse=False, dtype=torch.float64)
    keep, found = nms(device, boxes, scores, quality, None, 0.3)
    assert list(zip(found.tolist(), keep.tolist(), strict=True)) == algorithm_1(boxes, scores, quality, 0.3)


@given(
    seed=seeds,
    n=st.integers(0, 30),
    score_threshold=st.sampled_from([float("-inf"), 0.25, 0.5]),
    top_k=st.none() | st.integers(0, 30),
    max_detections=st.none() | st.integers(0, 30),
)
def test_batched_limits(device, seed, n, score_threshold, top_k, max_detections):
    images = [scene(seed + b, n, coarse=b == 0) for b in range(3)]
    limits = {"score_threshold": score_threshold, "pre_nms_top_k": top_k, "max_detections": max_detections}
    result = batched(device, *(torch.stack(column) for column in zip(*images, strict=True)), 0.4, **limits)
    assert result.keep.shape[1] == (n if max_detections is None else min(n, max_detections))
    for b, image in enumerate(images):
        keep, scores = reference.iou_nms(*image, 0.4, **limits)
        count = int(result.counts[b])
        assert torch.equal(result.keep[b, :count], keep) and (result.keep[b, count:] == -1).all()
        assert torch.equal(result.scores[b, :count], scores) and (result.scores[b, count:] == 0).all()


def distinct(seed: int, n: int):
    """A scene in which no two scores and no two qualities are equal."""
    boxes, *_, labels = scene(seed, n, coarse=True, dtype=torch.float64)
    scores, quality = ((torch.randperm(n, generator=rng(seed + i)) + 1) / 64.0 for i in (1, 2))
    return boxes, scores.double(), quality.double(), labels


@given(seeds, st.integers(0, 30))
def test_permutation(seed, n):
    inputs, order = distinct(seed, n), torch.randperm(n, generator=rng(seed))
    keep, scores = mlc_ext.iou_nms(*inputs, 0.3)
    permuted, of_permuted = mlc_ext.iou_nms(*(t[order] for t in inputs), 0.3)
    assert order[permuted].tolist() == keep.tolist()
    same_values(of_permuted, scores)


@given(seeds, st.integers(0, 30), st.integers(-4, 4))
def test_scales_and_ranks(seed, n, exponent):
    """Scaled boxes change nothing, scaled scores scale; of the quality the rank alone counts."""
    boxes, scores, quality, labels = scene(seed, n, coarse=seed % 2 == 0, dtype=torch.float64)
    keep, found = mlc_ext.iou_nms(boxes, scores, quality, labels, 0.4)
    scale = 2.0**exponent
    changed, of_changed = mlc_ext.iou_nms(boxes * scale, scores * scale, quality**3 - 5, labels, 0.4)
    if len((quality**3 - 5).unique()) == len(quality.unique()):  # no two became one
        assert changed.tolist() == keep.tolist()
        same_values(of_changed, found * scale)


@given(seeds, st.integers(0, 30))
def test_every_kept_box_has_a_score_of_its_own_class_and_all_scores_are_accounted_for(seed, n):
    boxes, scores, quality, labels = distinct(seed, n)
    keep, found = mlc_ext.iou_nms(boxes, scores, quality, labels, 0.4)
    giver = torch.cat([(scores == s).nonzero()[0] for s in found]) if n else keep
    assert torch.equal(labels[giver], labels[keep]) and (quality[giver] <= quality[keep]).all()
    overlap = reference.box_iou(boxes, boxes)
    assert ((overlap[giver, keep] > 0.4) | (giver == keep)).all()
    assert n == 0 or found[0] == scores.max()  # the best score is in some cluster


def test_a_cluster_gives_its_best_score(device):
    """The well placed box is kept and takes the score of the confident, badly placed one."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
    keep, scores = nms(device, boxes, torch.tensor([0.9, 0.2, 0.5]), torch.tensor([0.3, 0.8, 0.1]), None, 0.5)
    assert keep.tolist() == [1, 2]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.5]))


def test_many_boxes(device):
    """The radix path on CPU."""
    boxes, scores, quality, labels = scene(1, 600, coarse=True, classes=40)
    keep, found = nms(device, boxes, scores, quality, labels, 0.5)
    expected_keep, expected = reference.iou_nms(boxes, scores, quality, labels, 0.5)
    assert torch.equal(keep, expected_keep) and torch.equal(found, expected)


@pytest.mark.parametrize(("labeled", "top_k"), [(False, None), (True, 150)])
def test_many_boxes_in_batches(device, labeled, top_k):
    """Rows of more than a tile of the CUDA sorts, on each side of a top k."""
    images = [scene(seed, 4200, coarse=False) for seed in range(2)]
    *columns, labels = (torch.stack(column) for column in zip(*images, strict=True))
    limits = {"score_threshold": 0.9, "pre_nms_top_k": top_k, "max_detections": 60}
    result = batched(device, *columns, labels if labeled else None, 0.3, **limits)
    for b, image in enumerate(images):
        keep, scores = reference.iou_nms(*image[:3], image[3] if labeled else None, 0.3, **limits)
        count = len(keep)
        assert result.counts[b] == count > 9
        assert torch.equal(result.keep[b, :count], keep) and torch.equal(result.scores[b, :count], scores)


def test_zeros_of_both_signs_are_one_score(device):
    boxes = torch.tensor([[0.0, 0, 4, 4], [10, 0, 14, 4], [10, 0, 14, 4], [20, 0, 24, 4]])
    scores, quality = torch.tensor([-0.0, 0.0, -0.0, -1.0]), torch.tensor([0.1, 0.3, 0.2, 0.4])
    keep, found = nms(device, boxes, scores, quality, None, 0.5)
    assert keep.tolist() == [0, 1, 3]
    same_bits(found, torch.tensor([0.0, 0.0, -1.0]))


@pytest.mark.parametrize("kept", [15, 16, 17, 63, 64, 65, 79, 80, 81, 127, 128, 129, 145, 200])
def test_the_first_of_many_kept_boxes_takes_the_cluster(kept):
    """Kept boxes are compared by lanes, later by four of them at once; here each meets one suppressed box or two."""
    low = 10.0 * torch.arange(kept)
    grid = torch.stack((low, torch.zeros(kept), low + 9, torch.full((kept,), 9.0)), 1)
    between = grid[:-1] + torch.tensor([5.0, 0.0, 5.0, 0.0])  # overlaps a box and the next one
    boxes = torch.cat((grid, grid, between))
    quality = torch.cat((2 - torch.arange(kept) / 1000, torch.zeros(2 * kept - 1)))
    scores = torch.cat((torch.full((kept,), 0.1), torch.linspace(0.2, 0.3, kept), torch.linspace(0.5, 0.9, kept - 1)))
    keep, found = mlc_ext.iou_nms(boxes, scores, quality, None, 0.2)
    best = torch.maximum(scores[kept : 2 * kept], torch.cat((scores[2 * kept :], torch.zeros(1))))
    expected, order = best.sort(descending=True, stable=True)
    assert torch.equal(keep, order) and torch.equal(found, expected)
    assert torch.equal(mlc_ext.rescored_nms(boxes, quality + 1e-6, None, None, 0.2), torch.arange(kept))


def test_errors(device):
    boxes, scores, quality, labels = on(device, *scene(2, 5, coarse=False))
    with pytest.raises(ValueError, match="^iou_nms: iou_threshold must be in .*got 1.5"):
        mlc_ext.iou_nms(boxes, scores, quality, labels, 1.5)
    with pytest.raises(ValueError, match=r"^iou_nms: quality must have the shape of scores .*got \[1, 4\]"):
        mlc_ext.iou_nms(boxes, scores, quality[1:], labels, 0.5)
    with pytest.raises(TypeError, match="^iou_nms: quality must be a Tensor, got NoneType"):
        mlc_ext.iou_nms(boxes, scores, None, labels, 0.5)
    with pytest.raises(ValueError, match="^batched_iou_nms: max_detections must not be negative, got -2"):
        mlc_ext.batched_iou_nms(boxes[None], scores[None], quality[None], labels[None], 0.5, max_detections=-2)


def test_nan_is_refused_on_cpu():
    boxes, scores, quality, labels = scene(2, 5, coarse=False)
    quality[3] = float("nan")
    with pytest.raises(ValueError, match="^iou_nms: NaN in the box, score or quality of box 3"):
        mlc_ext.iou_nms(boxes, scores, quality, labels, 0.5)
