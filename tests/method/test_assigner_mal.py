"""MALAssigner against a case computed by hand and the rule written gt by gt."""

import math

import pytest
import torch
from assigner_cases import center_of, images_of, iou_of, labels_of, of_largest, random_batch

from mlc_ext import MALAssigner, Predictions


def deltas(box, anchor):
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    (x, y), (ax, ay) = center_of(box), center_of(anchor)
    size = math.log((box[2] - box[0]) / width), math.log((box[3] - box[1]) / height)
    return [(x - ax) / width * 10, (y - ay) / height * 10, size[0] * 5, size[1] * 5]


def smooth_l1(x, beta=0.11):
    return x * x / (2 * beta) if abs(x) < beta else abs(x) - beta / 2


def confidence(score, box, gt, anchor):
    off = [a - b for a, b in zip(deltas(box, anchor), deltas(gt, anchor), strict=True)]
    return score * math.exp(-0.75 * sum(map(smooth_l1, off)))


def assign_slowly(levels, targets, predictions, progress, bag_size=50):
    anchors = [box for level in levels for box in level.tolist()]
    expected = []
    for offset, boxes, labels, crowd, scores, predicted in images_of(targets, predictions):
        chosen, bags = [], []
        for k, (box, label) in enumerate(zip(boxes, labels, strict=True)):
            ious = [iou_of(anchor, box) for anchor in anchors]
            bag = sorted((i for i, iou in enumerate(ious) if iou > 0), key=lambda i: -ious[i])[:bag_size]
            pairs = [(i, k, confidence(scores[i][label], predicted[i], box, anchors[i])) for i in bag]
            number = math.floor(len(bag) * (1 - progress)) + 1
            chosen += sorted(pairs, key=lambda pair: -pair[2])[:number]
            bags += pairs
        positives, in_bag = of_largest(chosen), of_largest(bags)
        result, gts = labels_of([center_of(a) for a in anchors], positives, {}, offset, crowd)
        result = [-1 if i in in_bag and i not in positives else label for i, label in enumerate(result)]
        expected.append((result, gts))
    return expected


@pytest.mark.parametrize("progress", [0.0, 0.37, 1.0])
def test_equals_the_rule_gt_by_gt(progress):
    anchors, _, targets, predictions = random_batch(1)
    g = torch.Generator().manual_seed(2)  # anchors of one size that contain a gt would have equal IoUs
    anchors = [level + torch.rand(level.shape, generator=g) for level in anchors]
    found = MALAssigner(first_label=0, progress=progress)(anchors, targets, predictions)
    expected = assign_slowly(anchors, targets, predictions, progress)
    assert found.labels.tolist() == [label for labels, _ in expected for label in labels]
    assert found.candidate_gt.tolist() == [gt for _, gts in expected for gt in gts]


def test_a_case_by_hand():
    # One gt of side 20. Anchors: the gt itself, shifted by 10 along x (IoU 1/3), by 2 (IoU 9/11), and one far away.
    anchors = torch.tensor([[0.0, 0, 20, 20], [10, 0, 30, 20], [2, 0, 22, 20], [90, 90, 110, 110]])
    targets = [{"boxes": torch.tensor([[0.0, 0, 20, 20]]), "labels": torch.tensor([1])}]
    scores = torch.tensor([[0.5, 0.2], [0.5, 0.8], [0.5, 0.4], [0.5, 0.9]])
    # Anchor 0 predicts 1 pixel beside the gt: deltas off by 1 / 20 * 10 = 0.5, L = 0.75 (0.5 - 0.055) = 0.33375.
    # Anchor 1 predicts the gt: L = 0. Anchor 2 predicts twice the width around the gt's center: off by 5 log 2.
    boxes = torch.tensor([[1.0, 0, 21, 20], [0, 0, 20, 20], [-10, 0, 30, 20], [90, 90, 110, 110]])
    joint = [
        0.2 * math.exp(-0.33375), 0.8, 0.4 * math.exp(-0.75 * (5 * math.log(2) - 0.055)), 0.0
    ]  # fmt: skip
    inputs = [anchors], targets, Predictions(scores.logit()[None], boxes[None])
    assigner = MALAssigner(first_label=0, candidates="all")
    for progress, labels in ((0.0, [1, 1, 1, 0]), (0.5, [1, 1, -1, 0]), (0.7, [-1, 1, -1, 0]), (1.0, [-1, 1, -1, 0])):
        assigner.progress = progress
        found = assigner(*inputs)
        assert found.labels.tolist() == labels  # of a bag of 3: 3, floor(1.5) + 1 = 2, 1, 1
        assert found.candidate_gt.tolist() == [0, 0, 0, -1]
        assert found.originally_ignored.tolist() == [label == -1 for label in labels]
        assert found.metric.tolist() == pytest.approx(joint, abs=1e-6)


def test_progress_is_checked():
    anchors, _, targets, predictions = random_batch(0)
    with pytest.raises(ValueError, match=r"progress must be in \[0, 1\], got 1.5"):
        MALAssigner(first_label=0, progress=1.5)(anchors, targets, predictions)
