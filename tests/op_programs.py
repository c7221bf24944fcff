"""Every public operator as a function of tensors, at any size: what the tests of registration, transforms and edges
share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from comparisons import random_boxes, rng
from torch import Tensor

import mlc_ext
from mlc_ext import reference

GROUPS, IMAGES, CLASSES = 3, 2, 5
LIMITS = {"score_threshold": 0.1, "pre_nms_top_k": 9, "max_detections": 6}


@dataclass(frozen=True)
class Program:
    name: str
    """Of the operator, and what is special about the call."""
    make: Callable[..., tuple[Tensor, ...]]
    """(size, dtype) -> inputs."""
    run: Callable[..., object]
    expected: Callable[..., object]
    """run of mlc_ext.reference."""
    differentiable: int = 0
    """How many of the inputs, the first ones, have a gradient."""
    exact: bool = True
    """Whether the reference has the same bits; it may add in another order, and torch has exponentials of its own."""

    @property
    def operator(self) -> str:
        return self.name.split()[0]

    def inputs(self, device: str, size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        """On the device."""
        inputs = (t.to(device) for t in self.make(size, dtype))
        return tuple(t.requires_grad_() if i < self.differentiable else t for i, t in enumerate(inputs))


def group_inputs(n: int, dtype: torch.dtype = torch.float32, k: int = GROUPS) -> tuple[Tensor, ...]:
    """scores, ious, ids and baseline labels of n priors and k gts."""
    g = rng(n + k)
    ids = torch.randint(-1, max(k, 1), (n,), generator=g) if k else torch.full((n,), -1)
    baseline = torch.randint(-1, 2, (n,), generator=g).where(ids >= 0, 0).to(torch.int8)
    scores, ious = (torch.rand(n, generator=g).to(dtype) for _ in range(2))
    return scores, ious, ids, baseline


def otsu_inputs(n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    values, _, ids, _ = group_inputs(n, dtype)
    return values, ids


def box_inputs(n: int, dtype: torch.dtype = torch.float32, m: int | None = None) -> tuple[Tensor, Tensor]:
    """n boxes and m others (n + 1)."""
    return tuple(random_boxes(k, rng(k), extent=40).to(dtype) for k in (n, n + 1 if m is None else m))


def pair_inputs(n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    boxes, _ = box_inputs(n, dtype)
    return boxes, boxes + 1


def weighted_pair_inputs(n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Pairs and their weights, some of which are 0."""
    weights = torch.rand(n, generator=rng(n))
    return *pair_inputs(n, dtype), weights.where(weights > 0.3, 0).to(dtype)


def row_inputs(n: int, dtype: torch.dtype = torch.float32, classes: int = CLASSES) -> tuple[Tensor, ...]:
    """Logits, labels and weights of n priors."""
    g = rng(n)
    logits = 2 * torch.randn(n, classes, generator=g)
    labels, weights = torch.randint(-1, classes + 1, (n,), generator=g), torch.rand(n, generator=g)
    return logits.to(dtype), labels, weights.where(weights > 0.2, 0).to(dtype)


def nms_inputs(n: int, dtype: torch.dtype = torch.float32, batch: int = IMAGES) -> tuple[Tensor, ...]:
    """boxes, scores, quality and labels of a batch of n boxes each."""
    g = rng(n)
    boxes = random_boxes(batch * n, g).to(dtype).view(batch, n, 4)
    scores, quality = (torch.rand(batch, n, generator=g).to(dtype) for _ in range(2))
    return boxes, scores, quality, torch.randint(0, 3, (batch, n), generator=g)


def image_inputs(n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    return tuple(t[0] for t in nms_inputs(n, dtype))


def match_inputs(n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """n priors, n // 2 gts of two images, their offsets and which are crowd."""
    priors, gts = box_inputs(n, dtype, n // 2)
    crowd = torch.rand(len(gts), generator=rng(n)) < 0.2
    return priors, gts, torch.tensor([0, len(gts) // 3, len(gts)]), crowd


def alignment_inputs(n: int, dtype: torch.dtype = torch.float32, classes: int = CLASSES) -> tuple[Tensor, ...]:
    """n boxes in each of two images, n // 2 gts of both, their images and columns, and the logits."""
    g = rng(n)
    boxes = random_boxes(IMAGES * n, g).to(dtype).view(IMAGES, n, 4)
    count = n // 2
    images, columns = torch.arange(count) % IMAGES, torch.randint(0, classes, (count,), generator=g)
    logits = (2 * torch.randn(IMAGES, n, classes, generator=g)).to(dtype)
    return boxes, random_boxes(count, g, size=40).to(dtype), images, logits, columns


def padded(images: list[tuple[Tensor, Tensor]], scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The reference's (keep, scores) of every image as a batched NMS returns them."""
    batch, n = scores.shape
    size = min(n, LIMITS["max_detections"])
    keep, kept = torch.full((batch, size), -1), scores.new_zeros(batch, size)
    for b, (indices, values) in enumerate(images):
        keep[b, : len(indices)], kept[b, : len(indices)] = indices, values
    return keep, kept, torch.tensor([len(indices) for indices, _ in images], dtype=torch.int64)


def _programs():
    def both(name, make, of, **facts):
        """`of` gives the function of mlc_ext, and of mlc_ext.reference."""
        return Program(name, make, of(mlc_ext), of(reference), **facts)

    def batched_iou_nms(*inputs):
        images = [reference.iou_nms(*image, 0.5, **LIMITS) for image in zip(*inputs, strict=True)]
        return padded(images, inputs[1])

    yield both("segmented_otsu", otsu_inputs, lambda m: lambda v, i: m.segmented_otsu(v, i, GROUPS))
    yield both("segmented_otsu bins", otsu_inputs, lambda m: lambda v, i: m.segmented_otsu(v, i, GROUPS, bins=8))
    yield both("mutual_labels", group_inputs, lambda m: lambda *t: m.mutual_labels(*t, GROUPS, alpha=1.0))
    yield both(
        "match_boxes",
        match_inputs,
        lambda m: lambda p, g, o, c: m.match_boxes(p, g, o, high=0.5, low=0.4, crowd=c),
    )
    yield both(
        "topk_alignment",
        alignment_inputs,
        lambda m: lambda b, g, i, x, c: m.topk_alignment(b, g, i, 4, logits=x, columns=c),
        exact=False,
    )
    yield both(
        "topk_alignment IoU",
        lambda *size_and_type: alignment_inputs(*size_and_type)[:3],
        lambda m: lambda b, g, i: m.topk_alignment(b, g, i, 3, beta=1.0),
    )
    yield both("box_iou", box_inputs, lambda m: lambda a, b: m.box_iou(a, b), differentiable=2)
    for kind in ("iou", "giou"):
        yield both(
            f"paired_box_iou {kind}",
            pair_inputs,
            lambda m, kind=kind: lambda a, b: m.paired_box_iou(a, b, kind=kind),
            differentiable=2,
        )
    yield both(
        "sigmoid_focal_loss",
        row_inputs,
        lambda m: lambda x, y, w: m.sigmoid_focal_loss(x, y, w),
        differentiable=1,
        exact=False,
    )
    yield both(
        "sigmoid_focal_loss gamma 1.5",
        row_inputs,
        lambda m: lambda x, y, w: m.sigmoid_focal_loss(x, y, w, alpha=0.5, gamma=1.5),
        differentiable=1,
        exact=False,
    )
    for kind in ("iou", "linear_iou", "giou"):
        yield both(
            f"iou_loss {kind}",
            weighted_pair_inputs,
            lambda m, kind=kind: lambda a, b, w: m.iou_loss(a, b, w, kind=kind),
            differentiable=1,
            exact=False,
        )
    yield Program(
        "rescored_nms",
        image_inputs,
        lambda *t: mlc_ext.rescored_nms(*t, 0.5),
        lambda *t: reference.rescored_nms(*t, 0.5)[0],
    )
    yield both("batched_rescored_nms", nms_inputs, lambda m: lambda *t: m.batched_rescored_nms(*t, 0.5, **LIMITS))
    yield both("iou_nms", image_inputs, lambda m: lambda *t: m.iou_nms(*t, 0.5))
    yield Program(
        "batched_iou_nms",
        nms_inputs,
        lambda *t: mlc_ext.batched_iou_nms(*t, 0.5, **LIMITS),
        batched_iou_nms,
    )
    yield both(
        "segmented_spearman",
        lambda *size_and_type: group_inputs(*size_and_type)[:3],
        lambda m: lambda x, y, i: m.segmented_spearman(x, y, i, GROUPS),
    )


PROGRAMS = {program.name: program for program in _programs()}
every_program = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())


def tensors(result: object) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]
