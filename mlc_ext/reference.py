"""Every operator in plain torch, slow and readable: the kernels are tested against it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .ops.match_boxes import MatchedBoxes
from .ops.mutual_labels import IGNORED, NEGATIVE, POSITIVE, MutualLabels
from .ops.topk_alignment import TopkAlignment


def _bin_scale(low: float, high: float) -> float:
    """1, or 0.5 where the range or the sum of two bin edges could overflow."""
    return 1.0 if max(abs(low), abs(high)) <= 2.0**1022 else 0.5


def otsu_grid(values: Tensor, bins: int | None = None) -> Tensor:
    """[n] float64 values, not all equal -> [n] int64 q, their places on the group's grid (csrc/otsu.h)."""
    low, high, n = values.min().item(), values.max().item(), values.numel()
    if bins is not None:
        scale = _bin_scale(low, high)
        values, low, high = values * scale, low * scale, high * scale
        edges = low + torch.arange(bins + 1, dtype=torch.float64) * ((high - low) / bins)
        q = ((values - low) / (high - low) * bins).long().clamp(max=bins - 1)
        below = values < edges[q]
        above = ~below & (q != bins - 1) & (values >= edges[q + 1])
        return q - below.long() + above.long()
    prescale, extent = 1.0, high - low
    if not extent <= 2.0**1023:
        prescale, extent = 0.5, high * 0.5 - low * 0.5
    elif extent < 1e-250:
        prescale, extent = 2.0**200, extent * 2.0**200
    grid_bits = min(52, 61 - math.ceil(math.log2(n)))
    scale = 2.0 ** (grid_bits - math.frexp(extent)[1])
    offset = values * 0.5 - low * 0.5 if prescale == 0.5 else (values - low) * prescale
    return 2 * (offset * scale + 0.5).long()


def otsu_threshold(values: Tensor, bins: int | None = None) -> Tensor:
    """Otsu's threshold of [n] values -> scalar of their dtype; NaN for none, the value itself if all are equal."""
    if values.numel() == 0:
        return values.new_tensor(float("nan"))
    ordered = values.double().sort().values
    if ordered[0] == ordered[-1]:
        return (ordered[0] + 0.0).to(values.dtype)
    q = otsu_grid(ordered, bins)
    n = q.numel()
    below = torch.arange(1, n)  # sizes of the lower class
    total = int(q.sum())
    mean, remainder = divmod(total, n)
    centered = (q.cumsum(0)[:-1] - below * mean).double() - below.double() * (remainder / n)
    objective = centered * centered / (below.double() * (n - below).double())
    objective[q[:-1] == q[1:]] = -1.0  # no cut between equals
    best = int(torch.nonzero(objective == objective.max())[0])  # the first of equals
    if bins is None:
        return (ordered[best] + 0.0).to(values.dtype)
    scale = _bin_scale(ordered[0].item(), ordered[-1].item())
    low, high = ordered[0].item() * scale, ordered[-1].item() * scale
    width, index = (high - low) / bins, int(q[best])
    center = (0.5 / scale) * ((low + index * width) + (low + (index + 1) * width))
    return values.new_tensor(center, dtype=values.dtype)


def segmented_otsu(values: Tensor, segment_ids: Tensor, num_segments: int, *, bins: int | None = None) -> Tensor:
    """See :func:`mlc_ext.segmented_otsu`."""
    thresholds = values.new_empty(num_segments)
    for k in range(num_segments):
        thresholds[k] = otsu_threshold(values[segment_ids == k], bins)
    return thresholds


def mutual_labels(
    scores: Tensor,
    ious: Tensor,
    candidate_gt: Tensor,
    baseline_labels: Tensor,
    num_gts: int,
    *,
    alpha: float,
    degenerate: str = "baseline",
    bins: int | None = None,
) -> MutualLabels:
    """See :func:`mlc_ext.mutual_labels`."""
    compute = torch.promote_types(scores.dtype, torch.float32)
    candidate, gt = candidate_gt >= 0, candidate_gt.clamp(min=0)

    def task(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tau = segmented_otsu(values, candidate_gt, num_gts, bins=bins)
        labels, weights = baseline_labels.to(torch.int8).clone(), (baseline_labels != IGNORED).to(compute)
        if num_gts == 0:
            return labels, weights, tau
        above = values > tau[gt]
        splittable = torch.zeros(num_gts, dtype=torch.bool)
        splittable[gt[candidate & above]] = True
        decided = candidate & (splittable[gt] | (degenerate == "literal"))
        margin = (values.to(compute) - tau[gt].to(compute)).abs() ** alpha
        labels[decided] = above[decided].to(torch.int8)
        weights = torch.where(decided, torch.where(baseline_labels == IGNORED, margin, 1.0), weights)
        return labels, weights, tau

    cls_labels, cls_weights, iou_thresholds = task(ious)
    loc_labels, loc_weights, score_thresholds = task(scores)
    positive = loc_labels == POSITIVE
    loc_labels[~positive] = NEGATIVE
    loc_weights = loc_weights * positive
    dtype = scores.dtype
    return MutualLabels(
        cls_labels, loc_labels, cls_weights.to(dtype), loc_weights.to(dtype), score_thresholds, iou_thresholds
    )


def _extent(low: Tensor, high: Tensor) -> Tensor:
    """Areas of [..., 2] corners; inverted boxes are empty. relu: no gradient at length 0, as in the kernels."""
    return (high - low).relu().prod(-1)


def _inter_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of [..., 4] boxes xyxy."""
    inter = _extent(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    return inter, _extent(a[..., :2], a[..., 2:]) + _extent(b[..., :2], b[..., 2:]) - inter


def _iou(boxes1: Tensor, boxes2: Tensor, generalized: bool) -> Tensor:
    dtype = boxes1.dtype
    compute = torch.promote_types(dtype, torch.float32)
    a, b = boxes1.to(compute), boxes2.to(compute)
    inter, union = _inter_and_union(a, b)
    iou = torch.where(union > 0, inter / torch.where(union > 0, union, 1), 0)
    if generalized:
        hull = _extent(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
        iou = iou - torch.where(hull > 0, (hull - union) / torch.where(hull > 0, hull, 1), 0)
    return iou.to(dtype)


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """See :func:`mlc_ext.box_iou`."""
    return _iou(boxes1[:, None], boxes2[None], generalized=False)


def paired_box_iou(boxes1: Tensor, boxes2: Tensor, *, kind: str = "iou") -> Tensor:
    """See :func:`mlc_ext.paired_box_iou`."""
    return _iou(boxes1, boxes2, generalized=kind == "giou")


def _weighted_rows(rows: Tensor, weights: Tensor | None) -> Tensor:
    """The sum of weight * row over rows whose weight is not 0."""
    if weights is None:
        return rows.sum()
    weights = weights.detach().to(rows.dtype)
    return (rows[weights != 0] * weights[weights != 0]).sum()


def sigmoid_focal_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """See :func:`mlc_ext.sigmoid_focal_loss`; stores targets."""
    counted = labels >= 0
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))[counted]
    target = torch.zeros_like(logits, dtype=torch.bool)
    rows = torch.nonzero(labels[counted] > 0).flatten()
    target[rows, labels[counted][rows] - 1] = True
    z = torch.where(target, -logits, logits)
    losses = -(z.sigmoid() ** gamma) * torch.nn.functional.logsigmoid(-z)
    losses = losses * torch.where(target, alpha, 1 - alpha)
    return _weighted_rows(losses.sum(1), None if weights is None else weights[counted])


def iou_loss(
    boxes: Tensor, targets: Tensor, weights: Tensor | None = None, kind: str = "iou", eps: float = 1e-6
) -> Tensor:
    """See :func:`mlc_ext.iou_loss`."""
    dtype = torch.promote_types(boxes.dtype, torch.float32)
    counted = torch.ones(len(boxes), dtype=torch.bool) if weights is None else weights != 0
    boxes, targets = boxes[counted].to(dtype), targets.detach()[counted].to(dtype)
    iou = _iou(boxes, targets, generalized=kind == "giou")
    if kind != "giou":
        iou = iou.clamp(min=eps)
    losses = -iou.log() if kind == "iou" else 1 - iou
    return _weighted_rows(losses, None if weights is None else weights[counted])


def match_boxes(
    priors: Tensor,
    gt_boxes: Tensor,
    gt_offsets: Tensor,
    *,
    high: float,
    low: float,
    forced: str | None = "forcing",
    min_forced_iou: float = 0.0,
    crowd: Tensor | None = None,
    crowd_iof: float = 0.5,
) -> MatchedBoxes:
    """See :func:`mlc_ext.match_boxes`; stores the matrix."""
    batch, num_priors = gt_offsets.numel() - 1, priors.shape[0]
    compute = torch.promote_types(priors.dtype, torch.float32)
    priors, gt_boxes = priors.to(compute), gt_boxes.to(compute)
    at_least = {"high": high, "low": low, "forced": min_forced_iou, "crowd": crowd_iof}
    at_least = {name: torch.tensor(value, dtype=compute).item() for name, value in at_least.items()}  # rounded
    labels = torch.zeros(batch, num_priors, dtype=torch.int8)
    matched = torch.full((batch, num_priors), -1)
    ious = torch.zeros(batch, num_priors, dtype=compute)
    for b in range(batch):
        gts = torch.arange(int(gt_offsets[b]), int(gt_offsets[b + 1]))
        is_crowd = torch.zeros(len(gts), dtype=torch.bool) if crowd is None else crowd[gts]
        objects, crowds = gts[~is_crowd], gts[is_crowd]
        forced_gt = torch.full((num_priors,), -1)
        if len(objects) > 0 and num_priors > 0:
            matrix = box_iou(priors, gt_boxes[objects])
            ious[b] = matrix.amax(1)
            first = (matrix == ious[b][:, None]).int().argmax(1)  # the first of equals
            candidate = (ious[b] > 0) & (ious[b] >= at_least["low"])
            matched[b, candidate] = objects[first[candidate]]
            for g, best in enumerate(matrix.amax(0)):
                if forced is not None and best > 0 and best >= at_least["forced"]:
                    of_gt = matrix[:, g] == best
                    forced_gt[of_gt] = objects[g] if forced == "forcing" else objects[first[of_gt]]
        positive = (forced_gt >= 0) | ((ious[b] >= at_least["high"]) & (ious[b] > 0))
        on_crowd = torch.zeros(num_priors, dtype=torch.bool)
        area = _extent(priors[:, :2], priors[:, 2:])
        for k in crowds.tolist():
            inter, _ = _inter_and_union(priors, gt_boxes[k])
            on_crowd |= (area > 0) & (inter > 0) & (inter >= at_least["crowd"] * area)
        labels[b, (matched[b] >= 0) | on_crowd] = -1
        labels[b, positive] = 1
        matched[b] = torch.where(forced_gt >= 0, forced_gt, matched[b])
    return MatchedBoxes(labels, matched, ious)


def topk_alignment(
    boxes: Tensor,
    gt_boxes: Tensor,
    gt_image: Tensor,
    k: int,
    *,
    logits: Tensor | None = None,
    columns: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 6.0,
) -> TopkAlignment:
    """See :func:`mlc_ext.topk_alignment`; stores the matrix."""
    compute = torch.promote_types(boxes.dtype, torch.float32)
    prior = torch.full((len(gt_boxes), k), -1)
    metric = torch.zeros(len(gt_boxes), k, dtype=compute)
    for g, image in enumerate(gt_image.tolist()):
        values = box_iou(gt_boxes[g : g + 1].to(compute), boxes[image].to(compute))[0] ** beta
        if logits is not None and columns is not None:
            score = (
                logits[image, :, columns[g]].double().sigmoid() ** alpha
            )  # float32 scores may be 0 whose power is not
            values = values * score.to(compute)
        order = values.nan_to_num(0).argsort(descending=True, stable=True)
        order = order[values[order] > 0][:k]
        metric[g, : len(order)], prior[g, : len(order)] = values[order], order
    return TopkAlignment(metric.to(boxes.dtype), prior)


def rescored_nms(
    boxes: Tensor,
    scores: Tensor,
    quality: Tensor | None,
    labels: Tensor | None,
    iou_threshold: float,
    *,
    score_threshold: float = float("-inf"),
    pre_nms_top_k: int | None = None,
    max_detections: int | None = None,
) -> tuple[Tensor, Tensor]:
    """One image of :func:`mlc_ext.batched_rescored_nms` without padding -> (keep [n] int64, scores [n])."""
    compute = torch.promote_types(boxes.dtype, torch.float32)
    product = scores.to(compute) * (1 if quality is None else quality.to(compute))
    candidates = torch.nonzero(scores.to(compute) > torch.tensor(score_threshold, dtype=compute)).flatten()
    order = candidates[product[candidates].argsort(descending=True, stable=True)][:pre_nms_top_k]
    boxes, threshold = boxes.to(compute), torch.tensor(iou_threshold, dtype=compute)
    keep: list[int] = []
    for i in order.tolist():
        if max_detections is not None and len(keep) == max_detections:
            break
        rivals = torch.tensor(keep, dtype=torch.int64)
        if labels is not None:
            rivals = rivals[labels[rivals] == labels[i]]
        inter, union = _inter_and_union(boxes[rivals], boxes[i])
        if not bool((inter > threshold * union).any()):
            keep.append(i)
    kept = torch.tensor(keep, dtype=torch.int64)
    return kept, product[kept].to(scores.dtype)


def batched_rescored_nms(
    boxes: Tensor, scores: Tensor, quality: Tensor | None, labels: Tensor | None, iou_threshold: float, **limits: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`mlc_ext.batched_rescored_nms`."""
    batch, n = scores.shape
    size = n if limits.get("max_detections") is None else min(n, limits["max_detections"])
    keep, kept_scores = torch.full((batch, size), -1), scores.new_zeros(batch, size)
    counts = torch.zeros(batch, dtype=torch.int64)
    for b in range(batch):
        quality_b, labels_b = (None if t is None else t[b] for t in (quality, labels))
        kept, product = rescored_nms(boxes[b], scores[b], quality_b, labels_b, iou_threshold, **limits)
        counts[b] = kept.numel()
        keep[b, : kept.numel()], kept_scores[b, : kept.numel()] = kept, product
    return keep, kept_scores, counts


def iou_nms(
    boxes: Tensor,
    scores: Tensor,
    quality: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    *,
    score_threshold: float = float("-inf"),
    pre_nms_top_k: int | None = None,
    max_detections: int | None = None,
) -> tuple[Tensor, Tensor]:
    """One image of :func:`mlc_ext.batched_iou_nms` without padding -> (keep [n] int64, scores [n])."""
    compute = torch.promote_types(boxes.dtype, torch.float32)
    candidates = torch.nonzero(scores > score_threshold).flatten()
    candidates = candidates[scores[candidates].argsort(descending=True, stable=True)][:pre_nms_top_k].sort().values
    order = candidates[quality[candidates].argsort(descending=True, stable=True)]
    boxes, threshold = boxes.to(compute), torch.tensor(iou_threshold, dtype=compute)
    clusters: dict[int, list[int]] = {}
    for i in order.tolist():
        for k in clusters:  # in rank order
            inter, union = _inter_and_union(boxes[k], boxes[i])
            same = labels is None or labels[k] == labels[i]
            if same and inter > threshold * union:
                clusters[k].append(i)
                break
        else:
            clusters[i] = [i]
    kept = torch.tensor(sorted(clusters), dtype=torch.int64)
    best = torch.tensor([scores[clusters[k]].max() for k in sorted(clusters)], dtype=scores.dtype)
    rank = best.argsort(descending=True, stable=True)[:max_detections]
    return kept[rank], best[rank]


def segmented_spearman(x: Tensor, y: Tensor, segment_ids: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    """See :func:`mlc_ext.segmented_spearman`."""
    rho = torch.full((num_segments,), float("nan"), dtype=torch.float64)
    n = torch.zeros(num_segments, dtype=torch.int64)
    for k in range(num_segments):
        pair = [values[segment_ids == k].double() for values in (x, y)]
        n[k] = len(pair[0])
        if n[k] < 2 or any(bool(values.isnan().any()) for values in pair):
            continue
        # twice the average rank: those below, and those not above, counted once each
        a, b = ((v[:, None] > v).sum(1) + (v[:, None] >= v).sum(1) - n[k] for v in pair)
        xy, xx, yy = (float((left * right).sum()) for left, right in ((a, b), (a, a), (b, b)))
        if xx > 0 and yy > 0:
            rho[k] = min(max(xy / math.sqrt(xx * yy), -1.0), 1.0)  # torch's sqrt is not rounded correctly
    return rho, n
