#!/usr/bin/env python
"""Runs every operator once on small inputs that reach every kernel and branch: what compute-sanitizer watches.

usage: compute-sanitizer --tool memcheck python tools/sanitizer_cases.py
       python tools/sanitizer_cases.py --kernels    fails unless torch.profiler saw every __global__ of csrc/cuda, with
                                                    exit status 3 where it sees nothing

Values are compared elsewhere (tests/); here a wrong access counts, so inputs that CUDA does not check (ids and offsets
out of range, NaN) are among them. Without a memory cache every tensor is an allocation of its own, and what leaves it
is seen: tools/gpu_check.py sets PYTORCH_NO_CUDA_MEMORY_CACHING=1.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import cuda_programs  # noqa: E402
import op_programs  # noqa: E402
from comparisons import DTYPES, on, random_boxes, rng  # noqa: E402

import mlc_ext  # noqa: E402

Case = Callable[[str], object]
SMALL = (0, 1, 2, 33, 65)
# values, groups: read by each group's block; counted in shared memory, with groups sorted, by levels, and by blocks of
# many threads; counted in global memory, a warp to a group
GROUPINGS = ((500, 3), (60_000, 200), (60_000, 40), (40_000, 2), (40_000, 5000))


def grouped(n: int, k: int, kind: str, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    g = rng(n + k)
    x = torch.rand(n, generator=g)
    if kind == "heavy tails":  # levels within levels
        x = (40 * x - 20).exp().clamp(max=6e4)
    if kind == "equal":
        x = torch.full((n,), 0.25)
    if kind == "not finite":
        x[::7], x[1::11], x[2::13] = float("nan"), float("inf"), -float("inf")
    ids = torch.randint(-1, k, (n,), generator=g)
    if kind == "ids out of range":
        ids[::5], ids[1::5] = k, -(2**62)
    y, labels = torch.rand(n, generator=g), torch.randint(-1, 1, (n,), generator=g)
    return x.to(dtype), y.to(dtype), ids, labels.to(torch.int8)


def run_groups(device: str, n: int, k: int, kind: str, dtype: torch.dtype = torch.float32) -> None:
    x, y, ids, labels = on(device, *grouped(n, k, kind, dtype))
    for bins in (None, 16):
        mlc_ext.segmented_otsu(x, ids, k, bins=bins)
    mlc_ext.mutual_labels(x, y, ids, labels, k, alpha=0.7)
    mlc_ext.segmented_spearman(x, y, ids, k)


def run_nms(device: str, batch: int, n: int, classes: int | None, **limits) -> None:
    g = rng(n)
    boxes = random_boxes(batch * n, g, extent=200).float().view(batch, n, 4)
    scores, quality = torch.rand(2, batch, n, generator=g)
    labels = None if classes is None else torch.randint(0, classes, (batch, n), generator=g)
    boxes, scores, quality, labels = on(device, boxes, scores, quality, labels)
    for nms in (mlc_ext.batched_rescored_nms, mlc_ext.batched_iou_nms):
        nms(boxes, scores, quality, labels, 0.5, **limits)
    if not limits and n > 0:
        of_first = (boxes[0], scores[0], quality[0], None if labels is None else labels[0])
        mlc_ext.rescored_nms(*of_first, 0.5)
        mlc_ext.iou_nms(*of_first, 0.5)


def run_boxes(device: str, n: int, m: int, dtype: torch.dtype) -> None:
    a, b = (t.to(device).requires_grad_() for t in op_programs.box_inputs(n, dtype, m))
    torch.autograd.grad(mlc_ext.box_iou(a, b).sum(), (a, b))
    near = (a.detach() + 1).requires_grad_()
    for kind in ("iou", "giou"):
        torch.autograd.grad(mlc_ext.paired_box_iou(a, near, kind=kind).sum(), (a, near))
        torch.autograd.grad(mlc_ext.paired_box_iou(a, near.detach(), kind=kind).sum(), a)
        torch.autograd.grad(mlc_ext.paired_box_iou(a.detach(), near, kind=kind).sum(), near)


def run_matching(device: str, n: int, counts: tuple[int, ...], dtype: torch.dtype, offsets: list[int] | None = None):
    g = rng(n)
    priors, gts = random_boxes(n, g).to(dtype), random_boxes(sum(counts), g).to(dtype)
    starts = torch.tensor([0, *counts]).cumsum(0) if offsets is None else torch.tensor(offsets)
    crowd = torch.rand(len(gts), generator=g) < 0.2
    priors, gts, starts, crowd = on(device, priors, gts, starts, crowd)
    for flags in (None, crowd):
        for forced in (None, "forcing", "own_best"):
            mlc_ext.match_boxes(priors, gts, starts, high=0.5, low=0.4, crowd=flags, forced=forced)


def run_unaligned(device: str) -> None:
    """Views that start where no vector may be read."""
    flat = random_boxes(70, rng(1)).float().flatten().to(device)
    boxes = flat[3 : 3 + 4 * 66].view(66, 4)
    mlc_ext.box_iou(boxes, boxes)
    mlc_ext.paired_box_iou(boxes, boxes)
    mlc_ext.match_boxes(boxes, boxes[:7], torch.tensor([0, 7], device=device), high=0.5, low=0.4)
    mlc_ext.topk_alignment(boxes[None], boxes[:7], torch.zeros(7, dtype=torch.int64, device=device), 3)
    mlc_ext.rescored_nms(boxes, boxes[:, 0], None, None, 0.5)
    mlc_ext.iou_loss(boxes, boxes)
    mlc_ext.sigmoid_focal_loss(boxes, torch.zeros(66, dtype=torch.int64, device=device))


def run_focal(device: str, labels: list[int]) -> None:
    logits = torch.zeros(len(labels), 8, device=device, requires_grad=True)
    mlc_ext.sigmoid_focal_loss(logits, torch.tensor(labels, device=device)).backward()


def cases(device: str) -> Iterator[tuple[str, Case]]:
    """(name, case) of everything; what a CPU refuses (values that a GPU does not check) is not for it."""
    for program in cuda_programs.PROGRAMS.values():
        if program.size <= 10_000:
            yield program.name, lambda d, p=program: p.run(*on(d, *p.make(0, p.size)))
    for program in op_programs.PROGRAMS.values():
        for dtype in DTYPES:
            for n in SMALL:
                yield f"{program.name}, {n}, {dtype}", lambda d, p=program, n=n, t=dtype: p.run(*p.inputs(d, n, t))
    kinds = ["even", "heavy tails", "equal"] + (["not finite", "ids out of range"] if device == "cuda" else [])
    for n, k in GROUPINGS:
        for kind in kinds:
            yield f"groups, {n} in {k}, {kind}", lambda d, n=n, k=k, kind=kind: run_groups(d, n, k, kind)
    for dtype in DTYPES:
        yield f"groups by levels, {dtype}", lambda d, t=dtype: run_groups(d, 40_000, 2, "heavy tails", t)
        yield f"boxes, {dtype}", lambda d, t=dtype: (run_boxes(d, 70, 132, t), run_boxes(d, 9, 131, t))
        yield f"matching, {dtype}", lambda d, t=dtype: run_matching(d, 300, (70, 0, 9), t)
    yield "matching without gts", lambda d: run_matching(d, 300, (0, 0), torch.float32)
    for n, classes in ((5000, 4), (5000, None), (300, 150), (0, None)):
        yield f"NMS, 2 x {n}, {classes} classes", lambda d, n=n, c=classes: run_nms(d, 2, n, c)
    for limits in ({"max_detections": 3}, {"pre_nms_top_k": 70}, {"score_threshold": 2.0}, {"pre_nms_top_k": 0}):
        yield f"NMS, {limits}", lambda d, limits=limits: [run_nms(d, 2, 300, c, **limits) for c in (5, None)]
    yield "views that start at odd places", run_unaligned
    if device == "cuda":
        for offsets in ([5, 3, 900, -4], [-(2**62), 2**62], [79, 0]):
            yield f"gt offsets {offsets}", lambda d, o=offsets: run_matching(d, 300, (79,), torch.float32, o)
        yield "labels out of range", lambda d: run_focal(d, [-2, 9, 2**62, -(2**62), 2**32])


def kernels_of_sources() -> set[str]:
    """Names of the __global__ functions of csrc/cuda."""
    pattern = re.compile(r"__global__ void\s+(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s*(?://[^\n]*)?\s*)?(\w+)\(")
    return {name for path in (ROOT / "csrc" / "cuda").glob("*.cu*") for name in pattern.findall(path.read_text())}


def run_all(device: str) -> int:
    start, count = time.perf_counter(), 0
    for name, case in cases(device):
        try:
            case(device)
            if device == "cuda":
                torch.cuda.synchronize()
        except Exception:
            print(f"sanitizer_cases: failed in: {name}", flush=True)
            raise
        count += 1
    print(f"sanitizer_cases: {count} cases in {time.perf_counter() - start:.1f} s on {device}", flush=True)
    return count


def unseen_kernels(device: str) -> set[str] | None:
    """Of the sources' kernels, those that a profile of all cases lacks; None where the profiler sees no kernels."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run_all(device)
    ran = [event.key for event in profiler.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA]
    if not ran:
        return None
    return {name for name in kernels_of_sources() if not re.search(rf"\b{name}\b", " ".join(ran))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--kernels", action="store_true", help="fail unless every kernel of the sources has run")
    args = parser.parse_args()
    if not args.kernels:
        run_all(args.device)
        return 0
    missing = unseen_kernels(args.device)
    if missing is None:
        print("sanitizer_cases: torch.profiler sees no kernels on this machine")
        return 3
    print(f"sanitizer_cases: {len(kernels_of_sources())} kernels, not seen: {', '.join(sorted(missing)) or 'none'}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
