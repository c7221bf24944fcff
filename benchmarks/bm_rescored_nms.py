"""batched_rescored_nms against torchvision's NMS, image by image; on a CPU without torchvision, nms_baseline.cpp."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from _box_peers import boxes
from _harness import Case, Settings
from _torchvision import torchvision
from torch import Tensor

from mlc_ext import batched_rescored_nms

IOU, SCORE = 0.5, 0.05
# images, boxes of each, classes (None: class-agnostic)
SIZES = [(16, 1000, 80), (16, 1000, None), (64, 10_000, 80), (64, 10_000, None)]


@functools.cache
def greedy_nms():
    from torch.utils import cpp_extension

    source = Path(__file__).with_name("nms_baseline.cpp")
    cpp_extension.load("mlc_nms_baseline", [str(source)], extra_cflags=["-O3"], is_python_module=False)
    return torch.ops.mlc_benchmarks.greedy_nms


def batched_nms(xyxy: Tensor, scores: Tensor, labels: Tensor | None) -> Tensor:
    """As torchvision keeps classes apart on CPU: few boxes by an offset a class, many class by class."""
    nms = greedy_nms()
    if labels is None:
        return nms(xyxy, scores, IOU)
    if xyxy.numel() <= 4000:
        offsets = labels.to(xyxy) * (xyxy.max() + 1)
        return nms(xyxy + offsets[:, None], scores, IOU)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for label in labels.unique():
        members = torch.where(labels == label)[0]
        kept[members[nms(xyxy[members], scores[members], IOU)]] = True
    keep = torch.where(kept)[0]
    return keep[scores[keep].sort(descending=True).indices]


def per_image(
    xyxy: Tensor, scores: Tensor, quality: Tensor, labels: Tensor | None, nms: Callable[..., Tensor] = batched_nms
) -> list[Tensor]:
    results = []
    for b in range(len(xyxy)):
        candidates = torch.where(scores[b] > SCORE)[0]
        product = scores[b, candidates] * quality[b, candidates]
        names = None if labels is None else labels[b, candidates]
        results.append(candidates[nms(xyxy[b, candidates], product, names)])
    return results


def inputs(batch: int, n: int, classes: int | None, device: str):
    """Twenty detections around each object, of its class, scored apart."""
    generator = torch.Generator().manual_seed(0)
    objects = n // 20
    centers = boxes(batch * objects, "cpu").view(batch, objects, 4).repeat(1, 20, 1)
    xyxy = boxes(batch * n, "cpu", seed=1, jitter_of=centers.reshape(-1, 4)).view(batch, n, 4)
    scores, quality = (torch.rand(batch, n, generator=generator) for _ in range(2))
    labels = None
    if classes is not None:
        labels = torch.randint(0, classes, (batch, objects), generator=generator).repeat(1, 20).to(device)
    return xyxy.to(device), scores.to(device), quality.to(device), labels


def torchvision_nms(vision) -> Callable[..., Tensor]:
    def nms(xyxy: Tensor, scores: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            return vision.ops.nms(xyxy, scores, IOU)
        return vision.ops.batched_nms(xyxy, scores, labels, IOU)

    return nms


def cases(settings: Settings) -> Iterator[Case]:
    for batch, n, classes in SIZES[:2] if settings.quick else SIZES:
        yield case(batch, n, classes, settings)


def case(batch: int, n: int, classes: int | None, settings: Settings) -> Case:
    tensors = inputs(batch, n, classes, settings.device)
    name = f"{batch} x {n:,}, " + ("class-agnostic" if classes is None else f"{classes} classes")

    def ours():
        return batched_rescored_nms(*tensors, IOU, score_threshold=SCORE)

    if vision := torchvision(settings.device):
        peers = {"torchvision, per image": lambda: per_image(*tensors, torchvision_nms(vision))}
    elif settings.device == "cpu":
        peers = {"torchvision's algorithm": lambda: per_image(*tensors)}
    else:
        return Case(name, ours, {})

    def check() -> None:
        """The same boxes, but for the few whose IoU rounds to another side of the threshold."""
        result, kept, differ = ours(), 0, 0
        (of_peer,) = peers.values()
        for b, peer in enumerate(of_peer()):
            mine = set(result.keep[b, : result.counts[b]].tolist())
            kept, differ = kept + len(mine), differ + len(mine ^ set(peer.tolist()))
        if differ > 4 + kept / 1000:
            raise AssertionError(f"{differ} boxes differ from the peer's, of {kept} kept")

    return Case(name, ours, peers, check, single_threaded=tuple(peers) if settings.device == "cpu" else ())
