"""What one writes without mlc_ext: label assignment by matrices of all priors and gts, image by image, as MMDetection
does."""

from __future__ import annotations

import math

import numpy as np
import torch
from _box_peers import torch_iou
from torch import Tensor
from torch.nn import functional as F

from mlc_ext.assigners import AutoAssignCriterion

Levels = list[Tensor]


def _centers(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _sides(points: Tensor, gts: Tensor) -> Tensor:
    """[A, G, 4] distances to the left, top, right and bottom side."""
    return torch.cat((points[:, None] - gts[:, :2], gts[:, 2:] - points[:, None]), -1)


def _by_largest(index: Tensor, valid: Tensor, overlaps: Tensor) -> Tensor:
    """[A] the gt of the largest IoU among the valid [n, G] pairs, -1 for none."""
    best = torch.full_like(overlaps, -math.inf)
    gt = torch.arange(overlaps.shape[1], device=overlaps.device).expand_as(index)
    best[index[valid], gt[valid]] = overlaps[index[valid], gt[valid]]
    value, chosen = best.max(1)
    return torch.where(value > -math.inf, chosen, -1)


def atss(levels: Levels, gts: Tensor) -> Tensor:
    """-> [A] gt, -1 for none; as do the others."""
    anchors = torch.cat(levels)
    overlaps = torch_iou(anchors[:, None], gts[None])  # [A, G]
    points = _centers(anchors)
    distances = (points[:, None] - _centers(gts)).pow(2).sum(-1).sqrt()
    index, offset = [], 0
    for level in levels:
        of_level = distances[offset : offset + len(level)]
        index.append(of_level.topk(min(9, len(level)), dim=0, largest=False)[1] + offset)
        offset += len(level)
    index = torch.cat(index)
    candidates = overlaps.gather(0, index)
    positive = candidates >= candidates.mean(0) + candidates.std(0)
    inside = (_sides(points, gts).amin(-1) > 0.01).gather(0, index)
    return _by_largest(index, positive & inside, overlaps)


def task_aligned(levels: Levels, gts: Tensor, labels: Tensor, logits: Tensor, boxes: Tensor) -> Tensor:
    overlaps = torch_iou(boxes[:, None], gts[None])
    metric = logits.sigmoid()[:, labels] * overlaps**6
    value, index = metric.topk(13, dim=0)
    inside = (_sides(_centers(torch.cat(levels)), gts).amin(-1) > 0.01).gather(0, index)
    return _by_largest(index, (value > 0) & inside, overlaps)


def sim_ota(levels: Levels, strides: Tensor, gts: Tensor, labels: Tensor, logits: Tensor, boxes: Tensor) -> Tensor:
    points = torch.cat(levels)
    inside = _sides(points, gts).amin(-1) > 0
    near = ((points[:, None] - _centers(gts)).abs() < 2.5 * strides[:, None, None]).all(-1)
    valid = (inside | near).any(1)
    both = (inside & near)[valid]
    overlaps = torch_iou(boxes[valid][:, None], gts[None])
    scores = logits[valid].sigmoid()[:, None].repeat(1, len(gts), 1)
    classes = F.one_hot(labels, logits.shape[1]).float().expand_as(scores)
    entropy = F.binary_cross_entropy(scores, classes, reduction="none").sum(-1)
    cost = entropy - 3 * (overlaps + 1e-7).log() + ~both * 100_000.0
    sizes = overlaps.topk(10, dim=0)[0].sum(0).int().clamp(min=1)
    matching = torch.zeros_like(cost, dtype=torch.uint8)
    for k, size in enumerate(sizes.tolist()):
        matching[cost[:, k].topk(size, largest=False)[1], k] = 1
    several = matching.sum(1) > 1
    matching[several] = F.one_hot(cost[several].argmin(1), len(gts)).to(torch.uint8)
    found = torch.full((len(points),), -1, device=points.device)
    found[valid] = torch.where(matching.sum(1) > 0, matching.argmax(1), -1)
    return found


def paa(levels: Levels, gts: Tensor, labels: Tensor, logits: Tensor, boxes: Tensor) -> Tensor:
    anchors = torch.cat(levels)
    overlaps = torch_iou(gts[:, None], anchors[None])  # [G, A]
    best, assigned = overlaps.max(0)
    assigned = torch.where(best >= 0.1, assigned, -1)
    for k, largest in enumerate(overlaps.max(1)[0]):
        assigned[overlaps[k] == largest] = k
    index = (assigned >= 0).nonzero().squeeze(1)
    gt = assigned[index]
    p, y = logits[index].sigmoid(), F.one_hot(labels[gt], logits.shape[1]).float()
    entropy = F.binary_cross_entropy_with_logits(logits[index], y, reduction="none")
    focal = (entropy * (0.25 * y + 0.75 * (1 - y)) * (p * (1 - y) + (1 - p) * y) ** 2).sum(1)
    losses = focal + 1.3 * (1 - torch_iou(boxes[index], gts[gt], generalized=True))
    level = torch.cat([torch.full((len(part),), i, device=part.device) for i, part in enumerate(levels)])[index]
    found = torch.full((len(anchors),), -1, device=anchors.device)
    for k in range(len(gts)):
        parts = []
        for i in range(len(levels)):
            own = ((gt == k) & (level == i)).nonzero().squeeze(1)
            parts.append(own[losses[own].topk(min(9, len(own)), largest=False)[1]])
        own = torch.cat(parts)
        own = own[losses[own].argsort()]
        if len(own) >= 2:
            low, likelihood = _mixture(losses[own].double().cpu().numpy())
            own = own[torch.from_numpy(low).to(own.device)]
            if len(own) > 0:
                found[index[own[: int(likelihood[low].argmax()) + 1]]] = k
    return found


def _mixture(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One group's expectation maximization -> (of the first component, log-likelihood)."""
    weights, means, variances, before = np.full(2, 0.5), np.array([x[0], x[-1]]), np.ones(2), -np.inf
    for _ in range(100):
        joint, total = _log_joint(x, weights, means, variances)
        finished = abs(total.mean() - before) < 1e-3
        before = total.mean()
        part = np.exp(joint - total[:, None])
        mass = part.sum(0) + 1e-15
        means = part.T @ x / mass
        variances = part.T @ x**2 / mass - means**2 + 1e-6
        weights = mass / mass.sum()
        if finished:
            break
    joint, total = _log_joint(x, weights, means, variances)
    return joint[:, 0] >= joint[:, 1], total


def _log_joint(x: np.ndarray, weights: np.ndarray, means: np.ndarray, variances: np.ndarray) -> tuple[np.ndarray, ...]:
    joint = np.log(weights / np.sqrt(2 * np.pi * variances)) - (x[:, None] - means) ** 2 / (2 * variances)
    return joint, np.logaddexp(joint[:, 0], joint[:, 1])


def mal(levels: Levels, gts: Tensor, labels: Tensor, logits: Tensor, boxes: Tensor, progress: float) -> Tensor:
    anchors = torch.cat(levels)
    overlaps = torch_iou(gts[:, None], anchors[None])
    value, bag = overlaps.topk(50, dim=1)
    scores = logits.sigmoid()[bag].gather(2, labels[:, None, None].expand(-1, bag.shape[1], 1)).squeeze(2)
    deltas = _deltas(boxes[bag], anchors[bag]) - _deltas(gts[:, None], anchors[bag])
    loss = F.smooth_l1_loss(deltas, torch.zeros_like(deltas), reduction="none", beta=0.11).sum(-1)
    confidence = torch.where(value > 0, scores * (-0.75 * loss).exp(), -1)
    matrix = torch.full_like(overlaps, -math.inf)
    for k in range(len(gts)):
        size = int((value[k] > 0).sum())
        size = min(size, math.floor(size * (1 - progress)) + 1)
        top = confidence[k].topk(size)[1]
        matrix[k, bag[k, top]] = confidence[k, top]
    best, chosen = matrix.max(0)
    return torch.where(best > -math.inf, chosen, -1)


def _deltas(boxes: Tensor, anchors: Tensor) -> Tensor:
    size, anchor_size = boxes[..., 2:] - boxes[..., :2], anchors[..., 2:] - anchors[..., :2]
    shift = (boxes[..., :2] + boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:]) / 2
    return torch.cat((shift / anchor_size * 10, (size / anchor_size).log() * 5), -1)


def auto_assign(
    criterion: AutoAssignCriterion,
    points: Tensor,
    strides: Tensor,
    images: list[tuple[Tensor, Tensor]],
    logits: Tensor,
    objectness: Tensor,
    boxes: Tensor,
) -> Tensor:
    """The sum of the three losses, of images as (gts, labels)."""
    positive = negative = mass = center = 0.0
    for (gts, labels), logit, objects, box in zip(images, logits, objectness, boxes, strict=True):
        inside = _sides(points, gts).amin(-1) > 0  # [A, G]
        shift = (points[:, None] - _centers(gts)) / strides[:, None, None] - criterion.mean[labels]
        prior = (-(shift**2) / (2 * criterion.sigma[labels] ** 2)).exp().prod(-1) * inside
        pairs = box[:, None].expand(-1, len(gts), 4).reshape(-1, 4), gts.expand(len(points), -1, 4).reshape(-1, 4)
        giou = torch_iou(*pairs, generalized=True).view(inside.shape)
        with torch.no_grad():
            best = torch_iou(box[:, None], gts[None]).max(1, keepdim=True)[0].expand_as(inside)
        joint = logit.sigmoid() * objects.sigmoid()[:, None]
        confidence = joint[:, labels] * (-5 * (1 - giou)).exp()
        weight = (3 * confidence).exp() * prior
        mean = (confidence * weight / weight.sum(0).clamp(min=1e-12)).sum(0)
        positive = positive - mean.log().clamp(min=-100).sum()
        weights = torch.ones_like(joint)
        for k, label in enumerate(labels.tolist()):
            own = inside[:, k]
            if own.any():
                sharp = 1 / (1 - best[own, k]).clamp(min=1e-12)
                weights[own, label] = 1 - (sharp - sharp.min() + 1e-12) / (sharp.max() - sharp.min() + 1e-12)
        product = joint * weights
        entropy = F.binary_cross_entropy(product, torch.zeros_like(product), reduction="none")
        negative = negative + (product**2 * entropy).sum()
        mass = mass + prior.sum()
        center = center + len(gts) / prior.sum() / len(images)
    num_gts = sum(len(gts) for gts, _ in images)
    return 0.25 * positive / num_gts + 0.75 * negative / mass.detach() + 0.75 * center
