"""TaskAlignedAssigner against the rule written gt by gt, and against MMDetection's recorded assignments."""

import pytest
import torch
from assigner_cases import (
    center_of,
    check_equal,
    images_of,
    iou_of,
    labels_of,
    lies_inside,
    of_largest,
    random_batch,
    recorded,
    recorded_gt,
)

from mlc_ext import Assignment, TaskAlignedAssigner, alignment_targets


def assign_slowly(priors, targets, predictions, topk=13, alpha=1.0, beta=6.0):
    points = [center_of(box) if len(box) == 4 else tuple(box) for level in priors for box in level.tolist()]
    expected, metrics = [], []
    for offset, boxes, labels, crowd, scores, predicted in images_of(targets, predictions):
        pairs, metric = [], {}
        for k, (box, label) in enumerate(zip(boxes, labels, strict=True)):
            ious = [iou_of(p, box) for p in predicted]
            values = [s[label] ** alpha * iou**beta for s, iou in zip(scores, ious, strict=True)]
            for i in sorted(range(len(values)), key=lambda i: -values[i])[:topk]:
                if values[i] > 0 and lies_inside(points[i], box, 0.01):
                    pairs.append((i, k, ious[i]))
                    metric[i, k] = values[i]
        positives = of_largest(pairs)
        expected.append(labels_of(points, positives, {}, offset, crowd))
        metrics += [metric[i, positives[i]] if i in positives else 0.0 for i in range(len(points))]
    return expected, metrics


@pytest.mark.parametrize("settings", [{}, {"alpha": 0.5, "beta": 4.0, "topk": 7}])
@pytest.mark.parametrize("seed", range(2))
def test_equals_the_rule_gt_by_gt(seed, settings):
    anchors, _, targets, predictions = random_batch(seed)
    found = TaskAlignedAssigner(first_label=0, **settings)(anchors, targets, predictions)
    expected, metric = assign_slowly(anchors, targets, predictions, **settings)
    check_equal(found, expected)
    torch.testing.assert_close(found.metric, torch.tensor(metric), rtol=1e-5, atol=1e-9)
    assert set(found.labels.tolist()) == {-1, 0, 1}


def test_points_are_priors_too():
    _, points, targets, predictions = random_batch(2)
    found = TaskAlignedAssigner(first_label=0)(points, targets, predictions)
    check_equal(found, assign_slowly(points, targets, predictions)[0])


def test_golden_gts_and_metrics():
    for golden, anchors, _, targets, predictions in recorded("task_aligned"):
        found = TaskAlignedAssigner(first_label=0)(anchors, targets, predictions)
        expected = recorded_gt(golden, targets)
        assert torch.equal(found.candidate_gt, expected) and torch.equal(found.labels == 1, expected >= 0)
        metric = torch.cat([golden["metric_0"], golden["metric_1"]])
        torch.testing.assert_close(found.metric, metric, rtol=1e-5, atol=1e-7)


def test_alignment_targets_reach_the_largest_iou_of_each_gt():
    found = Assignment(
        labels=torch.tensor([1, 1, 0, 1, -1], dtype=torch.int8),
        candidate_gt=torch.tensor([0, 0, -1, 2, -1]),
        originally_ignored=torch.zeros(5, dtype=torch.bool),
        metric=torch.tensor([0.2, 0.1, 0.0, 0.4, 0.0]),
    )
    targets = alignment_targets(found, torch.tensor([0.6, 0.9, 0.3, 0.7, 0.8]), num_gts=3)
    torch.testing.assert_close(targets, torch.tensor([0.9, 0.45, 0.0, 0.7, 0.0]))
    with pytest.raises(ValueError, match="no metric"):
        alignment_targets(Assignment(found.labels, found.candidate_gt, found.originally_ignored), found.metric, 3)
