"""ATSSAssigner against the rule written gt by gt, and against MMDetection's recorded assignments."""

import pytest
import torch
from assigner_cases import (
    center_of,
    check_equal,
    images_of,
    iou_of,
    labels_of,
    lies_inside,
    mean_and_deviation,
    of_largest,
    random_batch,
    recorded,
    recorded_gt,
)

from mlc_ext import ATSSAssigner


def assign_slowly(levels, targets, predictions, topk=9, candidates="positives"):
    anchors = [box for level in levels for box in level.tolist()]
    points, expected = [center_of(box) for box in anchors], []
    for offset, boxes, _, crowd, _, _ in images_of(targets, predictions):
        positives, others = [], []
        for k, box in enumerate(boxes):
            cx, cy = center_of(box)
            nearest, start = [], 0
            for level in levels:
                indices = range(start, start + len(level))
                nearest += sorted(indices, key=lambda i: (points[i][0] - cx) ** 2 + (points[i][1] - cy) ** 2)[:topk]
                start += len(level)
            ious = {i: iou_of(anchors[i], box) for i in nearest}
            threshold = sum(mean_and_deviation(list(ious.values())))
            others += [(i, k, iou) for i, iou in ious.items()]
            positives += [
                (i, k, iou) for i, iou in ious.items() if iou >= threshold and lies_inside(points[i], box, 0.01)
            ]
        others = others if candidates == "all" else []
        expected.append(labels_of(points, of_largest(positives), of_largest(others), offset, crowd))
    return expected


@pytest.mark.parametrize("candidates", ["positives", "all"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_rule_gt_by_gt(seed, candidates):
    anchors, _, targets, predictions = random_batch(seed)
    found = ATSSAssigner(candidates=candidates)(anchors, targets)
    check_equal(found, assign_slowly(anchors, targets, predictions, candidates=candidates))
    assert set(found.labels.tolist()) == {-1, 0, 1}
    assert found.originally_ignored.any() == (candidates == "all")


def test_metric_is_the_iou_of_the_anchor():
    anchors, _, targets, _ = random_batch(4)
    found = ATSSAssigner(candidates="all")(anchors, targets)
    boxes = torch.cat([t["boxes"] for t in targets]).tolist()
    every = torch.cat(anchors).tolist()
    for n in (found.candidate_gt >= 0).nonzero().flatten().tolist():
        iou = iou_of(every[n % len(every)], boxes[found.candidate_gt[n]])
        assert found.metric[n].item() == pytest.approx(iou, abs=1e-6)


def test_an_image_larger_than_the_blocks_of_the_search():
    anchors, _, targets, predictions = random_batch(5, counts=((5, 0),), size=(400, 480))
    assert len(anchors[0]) > 2 * 9 * 64 and len(anchors[0]) % 64
    check_equal(ATSSAssigner()(anchors, targets), assign_slowly(anchors, targets, predictions))


def test_golden_gts():
    for golden, anchors, _, targets, _ in recorded("atss"):
        found = ATSSAssigner()(anchors, targets)
        expected = recorded_gt(golden, targets)
        assert torch.equal(found.candidate_gt, expected) and torch.equal(found.labels == 1, expected >= 0)


def test_wrong_settings():
    with pytest.raises(ValueError, match="candidates must be one of 'positives', 'all'"):
        ATSSAssigner(candidates="own_levels")
    with pytest.raises(ValueError, match="topk must be at least 1, got 0"):
        ATSSAssigner(topk=0)
