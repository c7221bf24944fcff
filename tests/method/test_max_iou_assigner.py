"""MaxIoUAssigner against match_boxes, image by image."""

import pytest
import torch
from comparisons import random_boxes, rng

from mlc_ext import MaxIoUAssigner, match_boxes


def scene(seed, counts=(5, 0, 3), crowds=(2, 1, 0)):
    """Anchors, and the targets of some images with gts and crowd boxes."""
    g = rng(seed)
    targets = [
        {"boxes": random_boxes(count, g, extent=40).round(), "crowd": random_boxes(crowd, g, extent=40).round()}
        for count, crowd in zip(counts, crowds, strict=True)
    ]
    return random_boxes(200, g, extent=40).round(), targets


@pytest.mark.parametrize("rule", [{}, {"high": 0.7, "low": 0.3, "min_forced_iou": 0.3}, {"forced": "own_best"}])
def test_equals_match_boxes_image_by_image(rule):
    anchors, targets = scene(3)
    found = MaxIoUAssigner(**rule)(anchors, targets)
    labels, gts = found.labels.view(3, -1), found.candidate_gt.view(3, -1)
    offset = 0
    for image, target in enumerate(targets):
        count = len(target["boxes"])
        boxes = torch.cat([target["boxes"], target["crowd"]])
        options = {"high": 0.5, "low": 0.4} | rule
        is_crowd = torch.arange(len(boxes)) >= count
        expected = match_boxes(anchors, boxes, torch.tensor([0, len(boxes)]), crowd=is_crowd, **options)
        assert torch.equal(labels[image], expected.labels[0])
        candidate = expected.candidate_gt[0] >= 0
        assert torch.equal(gts[image], torch.where(candidate, expected.candidate_gt[0] + offset, -1))
        offset += count
    assert torch.equal(found.originally_ignored, (found.labels == -1) & (found.candidate_gt >= 0))
    assert found.originally_ignored.any() and ((found.labels == -1) & (found.candidate_gt < 0)).any()


def test_crowd_may_be_missing():
    """Targets of torchvision have no such key; one that has it does not change the other images."""
    anchors, targets = scene(4)
    without = MaxIoUAssigner()(anchors, [{"boxes": t["boxes"], "labels": t["boxes"][:, 0].long()} for t in targets])
    empty = MaxIoUAssigner()(anchors, [t | {"crowd": t["boxes"][:0]} for t in targets])
    assert torch.equal(without.labels, empty.labels) and torch.equal(without.candidate_gt, empty.candidate_gt)
    mixed = MaxIoUAssigner()(anchors, [targets[0], {"boxes": targets[1]["boxes"]}, {"boxes": targets[2]["boxes"]}])
    rest = slice(len(anchors), None)
    assert torch.equal(mixed.labels[rest], without.labels[rest])
    assert torch.equal(mixed.candidate_gt[rest], without.candidate_gt[rest])
    assert not torch.equal(mixed.labels, without.labels)


def test_no_gts():
    found = MaxIoUAssigner()(scene(5)[0], [{"boxes": torch.zeros(0, 4)}] * 2)
    assert len(found.labels) == 400 and (found.labels == 0).all() and (found.candidate_gt == -1).all()
