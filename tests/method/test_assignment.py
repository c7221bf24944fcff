"""Assignment.from_matched against torchvision's matcher written out, and against MMDetection's indices."""

import pytest
import torch
from comparisons import random_boxes, rng

from mlc_ext import Assignment, MaxIoUAssigner, box_iou

HIGH, LOW = 0.5, 0.4
BELOW, BETWEEN = -1, -2


def torchvision_matches(matrix):
    """[G, A] IoUs -> (matched_idxs [A], all_matches [A]) of torchvision's Matcher with allow_low_quality_matches, but
    that a gt of IoU 0 with every anchor has no low-quality matches."""
    values, all_matches = matrix.max(0)
    matches = all_matches.clone()
    matches[values < LOW] = BELOW
    matches[(values >= LOW) & (values < HIGH)] = BETWEEN
    best_of_gt = matrix.amax(1)
    low_quality = ((matrix == best_of_gt[:, None]) & (best_of_gt[:, None] > 0)).any(0)
    matches[low_quality] = all_matches[low_quality]
    return matches, all_matches


def images(seed):
    g = rng(seed)
    anchors = random_boxes(300, g, extent=40)
    return anchors, [random_boxes(count, g, extent=40) for count in (4, 1, 6)]


def same(found, expected):
    assert found.labels.dtype == torch.int8 and found.candidate_gt.dtype == torch.int64
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.candidate_gt, expected.candidate_gt)
    assert torch.equal(found.originally_ignored, expected.originally_ignored)


@pytest.mark.parametrize("seed", range(5))
def test_of_torchvisions_matcher(seed):
    """With the matcher's candidates it is MaxIoUAssigner's assignment of the same rule."""
    anchors, gts = images(seed)
    matched, candidates = zip(*(torchvision_matches(box_iou(boxes, anchors)) for boxes in gts), strict=True)
    options = {"num_gts": [len(boxes) for boxes in gts], "convention": "torchvision"}
    found = Assignment.from_matched(matched, candidates=candidates, **options)
    expected = MaxIoUAssigner(forced="own_best")(anchors, [{"boxes": boxes} for boxes in gts])
    same(found, expected)
    assert found.originally_ignored.any() and found.candidate_gt.max() >= 5
    same(Assignment.from_matched(matched, **options), expected.positives_only())


@pytest.mark.parametrize("seed", range(3))
def test_of_mmdetections_assign_results(seed):
    anchors, gts = images(seed)
    expected = MaxIoUAssigner()(anchors, [{"boxes": boxes} for boxes in gts])
    offsets = torch.tensor([0, 4, 5]).repeat_interleave(len(anchors))
    local = torch.where(expected.candidate_gt >= 0, expected.candidate_gt - offsets, -1)
    gt_inds = torch.where(expected.labels == 1, local + 1, expected.labels.long())  # 0 negative, -1 ignored
    options = {"num_gts": [4, 1, 6], "convention": "mmdetection"}
    found = Assignment.from_matched(gt_inds.chunk(3), candidates=local.chunk(3), **options)
    same(found, expected)
    same(Assignment.from_matched(gt_inds.chunk(3), **options), expected.positives_only())


def test_images_without_gts():
    none = torch.full((3,), -1)
    found = Assignment.from_matched([none, torch.tensor([0, -1, -2])], num_gts=[0, 1], convention="torchvision")
    assert found.labels.tolist() == [0, 0, 0, 1, 0, -1] and found.candidate_gt.tolist() == [-1] * 3 + [0, -1, -1]
    found = Assignment.from_matched([none + 1, torch.tensor([1, 0, -1])], num_gts=[0, 1], convention="mmdetection")
    assert found.labels.tolist() == [0, 0, 0, 1, 0, -1] and not found.originally_ignored.any()


def test_candidates_are_read_where_the_prior_is_ignored():
    matched, candidates = torch.tensor([1, -1, -2, -2]), torch.tensor([0, 0, 0, -1])
    found = Assignment.from_matched([matched], num_gts=[2], convention="torchvision", candidates=[candidates])
    assert found.candidate_gt.tolist() == [1, -1, 0, -1]
    assert found.originally_ignored.tolist() == [False, False, True, False]


GOOD = {"matched": [torch.tensor([0, -1])], "num_gts": [1], "convention": "torchvision"}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"convention": "detectron2"}, ValueError, "convention must be one of 'torchvision', 'mmdetection'"),
        ({"num_gts": [1, 2]}, ValueError, "one entry per image: 1 and 2"),
        ({"matched": [], "num_gts": []}, ValueError, "one entry per image: 0 and 0"),
        ({"candidates": []}, ValueError, "candidates need one entry per image: 0 for 1"),
        ({"matched": [torch.tensor([1])]}, ValueError, r"matched\[0\] must be in -2..0 for 1 gts, got 1"),
        ({"matched": [torch.tensor([-3])]}, ValueError, r"matched\[0\] must be in -2..0 for 1 gts, got -3"),
        ({"convention": "mmdetection", "matched": [torch.tensor([2])]}, ValueError, r"in -1..1 for 1 gts, got 2"),
        ({"convention": "mmdetection", "matched": [torch.tensor([-2])]}, ValueError, r"in -1..1 for 1 gts, got -2"),
        ({"candidates": [torch.tensor([0, 1])]}, ValueError, r"candidates\[0\] must be in -1..0 for 1 gts, got 1"),
        ({"candidates": [torch.tensor([0])]}, ValueError, r"must have one shape, got \[2\] and \[1\]"),
        ({"matched": [torch.zeros(1, 2).long()]}, ValueError, r"matched\[0\] must have shape \[A\], got \[1, 2\]"),
        ({"matched": [torch.zeros(2)]}, TypeError, r"matched\[0\] must be an int64 or int32 tensor, got torch.float32"),
        ({"matched": [[0, 1]]}, TypeError, r"matched\[0\] must be an int64 or int32 tensor, got list"),
    ],
)
def test_errors(change, error, text):
    with pytest.raises(error, match=f"^Assignment.from_matched: .*{text}"):
        Assignment.from_matched(**(GOOD | change))
