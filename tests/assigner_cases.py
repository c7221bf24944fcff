"""Batches for the assigners' tests, recorded and random, and what holds for every assignment."""

import math

import torch
from golden import load_golden

from mlc_ext import Assignment
from mlc_ext.assigners import Predictions

STRIDES = (8, 16, 32, 64, 128)


def recorded(name):
    """-> (recording, anchors of each level, points of each level, targets, predictions) of every recording."""
    for golden in load_golden(name):
        sizes = golden["level_sizes"].tolist()
        boxes = torch.stack([golden[f"pred_boxes_{i}"] for i in range(2)])
        scores = torch.stack([golden[f"pred_scores_{i}"] for i in range(2)])
        targets = [{"boxes": golden[f"gt_boxes_{i}"], "labels": golden[f"gt_labels_{i}"]} for i in range(2)]
        points = golden["points"][:, :2].split(sizes)
        yield golden, golden["anchors"].split(sizes), points, targets, Predictions(scores.logit(), boxes)


def recorded_maps(golden, name):
    """[2, A, C] of the recorded maps of all levels."""
    return torch.cat([golden[f"{name}_{level}"].flatten(2).transpose(1, 2) for level in range(5)], 1)


def recorded_gt(golden, targets, name="gt_index"):
    """[2 * A] the recorded gt of each prior over the batch, -1 for none."""
    offset = len(targets[0]["boxes"])
    return torch.cat([golden[f"{name}_0"], torch.where(golden[f"{name}_1"] >= 0, golden[f"{name}_1"] + offset, -1)])


def level_points(height, width, strides=STRIDES, offset=0.5):
    """[H * W, 2] of each level."""
    levels = []
    for stride in strides:
        rows = (torch.arange(-(-height // stride)) + offset) * stride
        columns = (torch.arange(-(-width // stride)) + offset) * stride
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        levels.append(torch.stack((x.flatten(), y.flatten()), 1).float())
    return levels


def square_anchors(points, strides=STRIDES, scale=8):
    """One square anchor of ``scale`` strides around each point."""
    return [
        torch.cat((p - stride * scale / 2, p + stride * scale / 2), 1)
        for p, stride in zip(points, strides, strict=True)
    ]


def random_target(g, num_gts, num_crowd=0, size=256, num_classes=5):
    corner = torch.rand(num_gts + num_crowd, 2, generator=g) * size * 0.8
    extent = 8 + torch.rand(num_gts + num_crowd, 2, generator=g) * size * 0.5
    boxes = torch.cat((corner, (corner + extent).clamp(max=size)), 1)
    labels = torch.randint(0, num_classes, (num_gts,), generator=g)
    return {"boxes": boxes[:num_gts], "labels": labels, "crowd": boxes[num_gts:]}


def random_predictions(g, anchors, images, num_classes=5):
    anchors = torch.cat(list(anchors))
    center = (anchors[:, :2] + anchors[:, 2:]) / 2
    half = (anchors[:, 2:] - anchors[:, :2]) / 2
    shift = torch.randn(images, len(anchors), 2, generator=g) * 0.3 * half
    scale = (torch.randn(images, len(anchors), 2, generator=g) * 0.4).exp() * half
    logits = torch.randn(images, len(anchors), num_classes, generator=g) - 1
    boxes = torch.cat((center + shift - scale, center + shift + scale), -1)
    return Predictions(logits, boxes, torch.randn(images, len(anchors), generator=g))


def random_batch(seed, counts=((7, 2), (0, 0), (1, 0), (0, 2), (12, 1)), size=(192, 160)):
    """-> anchors, points of each level, targets, predictions."""
    g = torch.Generator().manual_seed(seed)
    points = level_points(*size)
    anchors = square_anchors(points)
    targets = [random_target(g, n, c, size=min(size)) for n, c in counts]
    return anchors, points, targets, random_predictions(g, anchors, len(targets))


def check_invariants(found: Assignment, targets, num_priors):
    """What every hard assigner promises."""
    num_gts = sum(len(t["boxes"]) for t in targets)
    n = num_priors * len(targets)
    assert found.labels.shape == found.candidate_gt.shape == found.originally_ignored.shape == (n,)
    assert found.labels.dtype == torch.int8 and found.candidate_gt.dtype == torch.int64
    positive, candidate = found.labels == 1, found.candidate_gt >= 0
    assert (candidate | ~positive).all() and (found.candidate_gt < num_gts).all()
    assert torch.equal(found.originally_ignored, candidate & ~positive)
    image = torch.cat([torch.full((len(t["boxes"]),), i) for i, t in enumerate(targets)])
    of_prior = torch.arange(len(targets)).repeat_interleave(num_priors)
    assert torch.equal(image[found.candidate_gt[candidate]], of_prior[candidate])
    if found.metric is not None:
        assert found.metric.dtype == torch.float32 and found.metric.isfinite().all()
        assert (found.metric[~candidate] == 0).all()


def iou_of(a, b):
    """IoU of two boxes that are lists."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return w * h / (area - w * h)


def images_of(targets, predictions):
    """-> (first gt, boxes, labels, crowd, scores, predicted boxes) of each image, as lists."""
    offset = 0
    for i, target in enumerate(targets):
        boxes = target["boxes"].tolist()
        crowd = target["crowd"].tolist() if "crowd" in target else []
        scores = predictions.cls_logits[i].float().sigmoid().tolist()
        yield offset, boxes, target["labels"].tolist(), crowd, scores, predictions.boxes[i].tolist()
        offset += len(boxes)


def center_of(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def lies_inside(point, box, margin=0.0):
    x, y = point
    return min(x - box[0], box[2] - x, y - box[1], box[3] - y) > margin


def of_largest(pairs):
    """{prior: gt} of (prior, gt, value): the gt of the largest value, the first of equals."""
    best = {}
    for prior, gt, value in pairs:
        if prior not in best or (value, -gt) > (best[prior][0], -best[prior][1]):
            best[prior] = (value, gt)
    return {prior: gt for prior, (_, gt) in best.items()}


def labels_of(points, positives, candidates, offset, crowd):
    """-> labels, candidate gts over the batch, of {prior: gt}."""
    labels, gts = [], []
    for i, point in enumerate(points):
        gt = positives.get(i, candidates.get(i))
        on_crowd = any(lies_inside(point, box) for box in crowd)
        labels.append(1 if i in positives else (-1 if on_crowd and gt is None else 0))
        gts.append(-1 if gt is None else gt + offset)
    return labels, gts


def check_equal(found, expected):
    """Of (labels, candidate gts) of each image, as lists."""
    assert found.labels.tolist() == [label for labels, _ in expected for label in labels]
    assert found.candidate_gt.tolist() == [gt for _, gts in expected for gt in gts]


def mean_and_deviation(values):
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
