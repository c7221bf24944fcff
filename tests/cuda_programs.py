"""Every operator of fixed shapes, and the method's criterion, as functions of tensors: what the tests of CUDA graphs,
host synchronizations and determinism, and the sanitizers' cases, share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from comparisons import random_boxes, rng, same_bits
from torch import Tensor

import mlc_ext
from mlc_ext import Assignment, MLCConfig, mlc_losses, task_targets
from mlc_ext.losses import iou_loss, normalizer, sigmoid_focal_loss

GROUPS, CLASSES = 40, 5
LIMITS = {"score_threshold": 0.05, "pre_nms_top_k": 900, "max_detections": 100}


@dataclass(frozen=True)
class Program:
    name: str
    make: Callable[..., tuple[Tensor, ...]]
    """(seed, size) -> inputs on the CPU."""
    run: Callable[..., Sequence[Tensor]]
    size: int = 5000
    """More than a tile of a sort, more than a block."""
    exact: bool = True
    """Whether CPU and CUDA agree in every bit; torch's own sums and exponentials do not."""


def values(seed: int, n: int) -> tuple[Tensor, ...]:
    """x, y with ties, ids of GROUPS groups or none, baseline labels."""
    g = rng(seed)
    x, y = torch.rand(2, n, generator=g).mul(300).floor().div(300)
    ids = torch.randint(-1, GROUPS, (n,), generator=g)
    return x, y, ids, torch.randint(-1, 2, (n,), generator=g).where(ids >= 0, 0).to(torch.int8)


def pairs(seed: int, n: int) -> tuple[Tensor, Tensor]:
    g = rng(seed)
    boxes = random_boxes(n, g).float()
    return boxes, boxes + torch.randn(n, 4, generator=g)


def matrix(seed: int, n: int) -> tuple[Tensor, Tensor]:
    return random_boxes(n, rng(seed)).float(), random_boxes(37, rng(seed + 100)).float()


def detections(seed: int, n: int, batch: int = 2) -> tuple[Tensor, ...]:
    g = rng(seed)
    boxes = random_boxes(batch * n, g, extent=400).float().view(batch, n, 4)
    scores, quality = torch.rand(2, batch, n, generator=g).mul(500).floor().div(500)
    return boxes, scores, quality, torch.randint(0, 5, (batch, n), generator=g)


def matching(seed: int, n: int) -> tuple[Tensor, ...]:
    """Priors, gts of three images, offsets that move with the seed, crowd."""
    g = rng(seed)
    priors, gts = random_boxes(n, g).float(), random_boxes(80, g).float()
    return priors, gts, torch.tensor([0, 3 + seed % 5, 70, 80]), torch.rand(80, generator=g) < 0.1


def predicted(seed: int, n: int) -> tuple[Tensor, ...]:
    """n boxes in each of two images, 80 gts, their images and columns, and the logits."""
    g = rng(seed)
    boxes, gts = random_boxes(2 * n, g, extent=300).float().view(2, n, 4), random_boxes(80, g, extent=300, size=60)
    images, columns = torch.randint(0, 2, (80,), generator=g), torch.randint(0, CLASSES, (80,), generator=g)
    return boxes, gts.float(), images, torch.randn(2, n, CLASSES, generator=g), columns


def training(seed: int, n: int) -> tuple[Tensor, ...]:
    """What a head gives for n priors, their assignment, and the gts."""
    g = rng(seed)
    gts = random_boxes(GROUPS, g, extent=300, size=100).float()
    _, _, candidates, labels = values(seed, n)
    boxes = gts[candidates.clamp(min=0)] + 6 * torch.randn(n, 4, generator=g)
    logits, iou_logits = torch.randn(n, CLASSES, generator=g), torch.randn(n, generator=g)
    return logits, boxes, iou_logits, labels, candidates, gts, torch.randint(1, CLASSES + 1, (GROUPS,), generator=g)


def classified(seed: int, n: int, classes: int) -> tuple[Tensor, ...]:
    """Logits, labels and weights of n priors."""
    g = rng(seed)
    weights = torch.rand(n, generator=g)
    labels = torch.randint(-1, classes + 1, (n,), generator=g)
    return torch.randn(n, classes, generator=g), labels, weights.where(weights > 0.2, 0)


def criterion(config: MLCConfig, box_loss: str) -> Callable[..., list[Tensor]]:
    """Targets, losses and their gradients, as mlc_ext.detectors.models.dense_detector puts them together."""

    def run(logits, boxes, iou_logits, labels, candidates, gts, gt_labels) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in (logits, boxes, iou_logits)]
        logits, boxes, iou_logits = leaves
        assignment = Assignment(labels, candidates, (labels == -1) & (candidates >= 0))
        task = task_targets(assignment, logits, boxes, gts, gt_labels, config, mutual=True, first_label=1)
        losses = {
            "classification": sigmoid_focal_loss(logits, task.cls_labels, task.cls_weights)
            / normalizer(task.num_cls_positive),
            "bbox_regression": iou_loss(boxes, task.matched_boxes, task.loc_weights, kind=box_loss)
            / normalizer(task.num_loc_positive),
            **mlc_losses(task, iou_logits, config),
        }
        gradients = torch.autograd.grad(sum(losses.values()), leaves)
        return [*(loss.detach() for loss in losses.values()), *gradients, task.cls_labels, task.loc_weights]

    return run


def with_gradients(operator: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    def run(*inputs: Tensor) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in inputs]
        result = operator(*leaves)
        return [result.detach(), *torch.autograd.grad(result.sum(), leaves)]

    return run


def _programs():
    yield Program("segmented_otsu", values, lambda x, y, ids, _: [mlc_ext.segmented_otsu(x, ids, GROUPS)])
    yield Program("segmented_otsu bins", values, lambda x, y, ids, _: [mlc_ext.segmented_otsu(x, ids, GROUPS, bins=64)])
    yield Program(
        "segmented_otsu long", values, lambda x, y, ids, _: [mlc_ext.segmented_otsu(x, ids, GROUPS)], size=200_000
    )
    for degenerate in ("baseline", "literal"):
        yield Program(
            f"mutual_labels {degenerate}",
            values,
            lambda *t, d=degenerate: mlc_ext.mutual_labels(*t, GROUPS, alpha=0.5, degenerate=d),
            size=60_000,
        )
    yield Program("segmented_spearman", values, lambda x, y, ids, _: mlc_ext.segmented_spearman(x, y, ids, GROUPS))
    yield Program("match_boxes", matching, lambda *t: mlc_ext.match_boxes(*t[:3], high=0.5, low=0.4))
    yield Program(
        "match_boxes crowd", matching, lambda p, g, o, c: mlc_ext.match_boxes(p, g, o, high=0.7, low=0.3, crowd=c)
    )
    for dtype in (torch.float32, torch.bfloat16):  # of the logits
        yield Program(
            f"topk_alignment {dtype}",
            predicted,
            lambda b, g, i, x, c, t=dtype: mlc_ext.topk_alignment(b, g, i, 13, logits=x.to(t), columns=c),
            exact=False,
        )
    yield Program("topk_alignment IoU", predicted, lambda b, g, i, *_: mlc_ext.topk_alignment(b, g, i, 9, beta=1.0))
    yield Program("box_iou", matrix, lambda a, b: [mlc_ext.box_iou(a, b)])
    yield Program("box_iou backward", matrix, with_gradients(mlc_ext.box_iou), exact=False, size=500)
    for kind in ("iou", "giou"):
        yield Program(
            f"paired_box_iou {kind}", pairs, with_gradients(lambda a, b, k=kind: mlc_ext.paired_box_iou(a, b, kind=k))
        )
    for kind in ("iou", "linear_iou", "giou"):
        yield Program(
            f"iou_loss {kind}",
            lambda seed, n: (*pairs(seed, n), values(seed, n)[0].sub(0.5).clamp(min=0)),
            lambda a, b, w, k=kind: with_gradients(lambda leaf: mlc_ext.iou_loss(leaf, b, w, kind=k))(a),
            exact=False,
        )
    for classes in (80, CLASSES):  # whole packs in a row, and not
        yield Program(
            f"sigmoid_focal_loss {classes}",
            lambda seed, n, c=classes: classified(seed, n, c),
            lambda x, y, w: with_gradients(lambda leaf: mlc_ext.sigmoid_focal_loss(leaf, y, w))(x),
            exact=False,
        )
    for name in ("batched_rescored_nms", "batched_iou_nms"):
        nms = getattr(mlc_ext, name)
        yield Program(name, detections, lambda *t, f=nms: f(*t, 0.5, **LIMITS))
        yield Program(f"{name} agnostic", detections, lambda b, s, q, _, f=nms: f(b, s, q, None, 0.5))
    yield Program("criterion FCOS-", training, criterion(MLCConfig(alpha=0.0), "iou"), exact=False)
    yield Program("criterion midpoint", training, criterion(MLCConfig(alpha=2.0, tau="midpoint"), "giou"), exact=False)


PROGRAMS = {program.name: program for program in _programs()}


def agree(actual: Sequence[Tensor], expected: Sequence[Tensor], *, exact: bool) -> None:
    """Results of a program: the same bits, or sums of float32 in another order."""
    for ours, theirs in zip(actual, expected, strict=True):
        if exact or not theirs.is_floating_point():
            same_bits(ours, theirs)
        else:
            torch.testing.assert_close(ours.cpu(), theirs.cpu(), rtol=1e-4, atol=1e-5)
