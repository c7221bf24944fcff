"""SimOTAAssigner against the rule written gt by gt, and against MMDetection's recorded assignments."""

import math

import pytest
import torch
from assigner_cases import (
    STRIDES,
    center_of,
    check_equal,
    images_of,
    iou_of,
    labels_of,
    lies_inside,
    random_batch,
    recorded,
    recorded_gt,
)

from mlc_ext import SimOTAAssigner


def assign_slowly(levels, targets, predictions, topk=10, radius=2.5):
    points = [tuple(p) for level in levels for p in level.tolist()]
    reach = [radius * stride for level, stride in zip(levels, STRIDES, strict=True) for _ in level]
    expected = []
    for offset, boxes, labels, crowd, scores, predicted in images_of(targets, predictions):
        inside, near = {}, {}
        for k, box in enumerate(boxes):
            cx, cy = center_of(box)
            for i, (x, y) in enumerate(points):
                inside[i, k] = lies_inside((x, y), box)
                near[i, k] = abs(x - cx) < reach[i] and abs(y - cy) < reach[i]
        gts = range(len(boxes))
        allowed = [i for i in range(len(points)) if any(inside[i, k] or near[i, k] for k in gts)]
        entropy = {i: -sum(math.log(1 - s) for s in scores[i]) for i in allowed}
        cost, takers = {}, {i: [] for i in allowed}
        for k in gts:
            ious = {i: iou_of(predicted[i], boxes[k]) for i in allowed}
            for i in allowed:
                s = scores[i][labels[k]]
                cost[i, k] = entropy[i] + math.log(1 - s) - math.log(s) - 3 * math.log(ious[i] + 1e-7)
                cost[i, k] += 0 if inside[i, k] and near[i, k] else 100_000
            number = max(1, int(sum(sorted(ious.values())[-topk:])))
            for i in sorted(allowed, key=lambda i: cost[i, k])[:number]:
                takers[i].append(k)
        positives = {i: of[0] if len(of) == 1 else min(gts, key=lambda k: cost[i, k]) for i, of in takers.items() if of}
        expected.append(labels_of(points, positives, {}, offset, crowd))
    return expected


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_rule_gt_by_gt(seed):
    _, points, targets, predictions = random_batch(seed)
    found = SimOTAAssigner(first_label=0)(points, targets, predictions)
    check_equal(found, assign_slowly(points, targets, predictions))
    assert set(found.labels.tolist()) == {-1, 0, 1}


def test_metric_is_the_iou_of_the_predicted_box():
    _, points, targets, predictions = random_batch(4)
    found = SimOTAAssigner(first_label=0)(points, targets, predictions)
    boxes = torch.cat([t["boxes"] for t in targets]).tolist()
    predicted = predictions.boxes.flatten(0, 1).tolist()
    for n in (found.labels == 1).nonzero().flatten().tolist():
        iou = iou_of(predicted[n], boxes[found.candidate_gt[n]])
        assert found.metric[n].item() == pytest.approx(iou, abs=1e-6)


def test_golden_gts():
    for golden, _, points, targets, predictions in recorded("sim_ota"):
        found = SimOTAAssigner(first_label=0)(points, targets, predictions)
        expected = recorded_gt(golden, targets)
        assert torch.equal(found.candidate_gt, expected) and torch.equal(found.labels == 1, expected >= 0)


def test_levels_and_strides_must_agree():
    _, points, targets, predictions = random_batch(0)
    with pytest.raises(ValueError, match="5 levels of priors for 2 strides"):
        SimOTAAssigner(first_label=0, strides=(8, 16))(points, targets, predictions)
