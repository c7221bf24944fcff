"""Sizes at which indices, grids and memory end, on the GPU against the CPU's operators.

Every check takes its sizes and its device, so that the checks themselves are run on the CPU, small.
"""

from contextlib import contextmanager

import pytest
import torch
from comparisons import same_bits, same_values

import mlc_ext
from mlc_ext import reference

GIGABYTE = 2**30


def draws(seed: int, device: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def groups_with_a_heavy_one(n: int, k: int, heavy: int, device: str) -> torch.Tensor:
    """[n] int64 ids of k groups, of which group k // 2 has at least `heavy` members; some in none."""
    ids = torch.randint(-1, k, (n,), generator=draws(1, device), device=device)
    ids[:: n // heavy] = k // 2
    return ids


def random_values(n: int, seed: int, device: str) -> torch.Tensor:
    return torch.rand(n, generator=draws(seed, device), device=device)


def check_groups(device: str, n: int, k: int, heavy: int) -> None:
    """Otsu, mutual labels and Spearman of n values in k groups, one of `heavy` members."""
    scores, ious = random_values(n, 2, device), random_values(n, 3, device)
    ids = groups_with_a_heavy_one(n, k, heavy, device)
    baseline = torch.where(ids >= 0, torch.randint(-1, 2, (n,), generator=draws(4, device), device=device), 0)
    baseline = baseline.to(torch.int8)
    host = [t.cpu() for t in (scores, ious, ids, baseline)]
    same_bits(mlc_ext.segmented_otsu(scores, ids, k), mlc_ext.segmented_otsu(host[0], host[2], k))
    for ours, theirs in zip(
        mlc_ext.mutual_labels(scores, ious, ids, baseline, k, alpha=0.5),
        mlc_ext.mutual_labels(*host, k, alpha=0.5),
        strict=True,
    ):
        same_bits(ours, theirs)
    for ours, theirs in zip(
        mlc_ext.segmented_spearman(scores, ious, ids, k), mlc_ext.segmented_spearman(*host[:3], k), strict=True
    ):
        same_bits(ours, theirs)


def random_boxes(n: int, seed: int, device: str, extent: float = 900.0) -> torch.Tensor:
    """[n, 4] float32 of whole pixels: IoUs are quotients of exact areas."""
    g = draws(seed, device)
    corner = (torch.rand(n, 2, generator=g, device=device) * extent).floor()
    return torch.cat([corner, corner + 20 + (torch.rand(n, 2, generator=g, device=device) * 180).floor()], 1)


def check_nms(device: str, batch: int, n: int) -> None:
    """Both NMS operators, 80 classes and one."""
    boxes = random_boxes(batch * n, 5, device).view(batch, n, 4)
    scores, quality = (random_values(batch * n, seed, device).view(batch, n) for seed in (6, 7))
    labels = torch.randint(0, 80, (batch, n), generator=draws(8, device), device=device)
    for nms in (mlc_ext.batched_rescored_nms, mlc_ext.batched_iou_nms):
        for names in (labels, None):
            inputs = (boxes, scores, quality, names)
            found = nms(*inputs, 0.5, score_threshold=0.05)
            expected = nms(*(None if t is None else t.cpu() for t in inputs), 0.5, score_threshold=0.05)
            for ours, theirs in zip(found, expected, strict=True):
                same_bits(ours, theirs)


@contextmanager
def memory_within(device: str, most: int):
    """What the block allocates at its peak is not more than `most` bytes; on a CPU it is not looked at."""
    if device == "cpu":
        yield
        return
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.cuda.synchronize()
    taken = torch.cuda.max_memory_allocated() - before
    assert taken <= most, f"{taken / GIGABYTE:.2f} GiB of {most / GIGABYTE:.2f}"


def check_matching(device: str, num_priors: int, num_gts: int, images: int) -> None:
    """A batch's matching, its results included, in 1 GiB: the matrix would take 4 bytes a pair."""
    priors, gts = random_boxes(num_priors, 9, device), random_boxes(num_gts * images, 10, device)
    offsets = torch.arange(images + 1, device=device) * num_gts
    with memory_within(device, GIGABYTE):
        found = mlc_ext.match_boxes(priors, gts, offsets, high=0.5, low=0.4)
    expected = mlc_ext.match_boxes(priors.cpu(), gts.cpu(), offsets.cpu(), high=0.5, low=0.4)
    for ours, theirs in zip(found, expected, strict=True):
        same_bits(ours, theirs)


def ends(n: int, count: int = 40) -> torch.Tensor:
    """Indices at the near and the far end of n."""
    return torch.cat([torch.arange(min(count, n)), torch.arange(max(n - count, 0), n)])


def check_matrix(device: str, n: int, m: int) -> None:
    """box_iou of n x m bfloat16 at its corners: where an index that wrapped would land."""
    a, b = random_boxes(n, 11, device).bfloat16(), random_boxes(m, 12, device).bfloat16()
    matrix = mlc_ext.box_iou(a, b)
    rows, columns = ends(n).to(device), ends(m).to(device)
    same_values(matrix[rows][:, columns], reference.box_iou(a[rows].cpu(), b[columns].cpu()))


def check_pairs(device: str, n: int) -> None:
    """IoU and GIoU of n pairs, and their gradients, at the ends of their arrays."""
    some = ends(n).to(device)
    for kind in ("iou", "giou"):
        a, b = random_boxes(n, 13, device).requires_grad_(), random_boxes(n, 14, device, extent=800)
        found = mlc_ext.paired_box_iou(a, b, kind=kind)
        (gradient,) = torch.autograd.grad(found.sum(), a)
        c = a[some].detach().cpu().requires_grad_()
        expected = mlc_ext.paired_box_iou(c, b[some].cpu(), kind=kind)
        same_bits(found[some].detach(), expected.detach())
        same_bits(gradient[some], torch.autograd.grad(expected.sum(), c)[0])


CHECKS = {
    "50M values, 1M groups, one of 5M": (check_groups, (50_000_000, 1_000_000, 5_000_000), (2000, 50, 200)),
    "20M values, 100 groups": (check_groups, (20_000_000, 100, 5_000_000), (2000, 3, 500)),
    "NMS of 64 x 10k": (check_nms, (64, 10_000), (2, 60)),
    "NMS of 1 x 300k": (check_nms, (1, 300_000), (1, 90)),
    "matching of 200k x 1000 x 16": (check_matching, (200_000, 1000, 16), (300, 10, 3)),
    "matching in 70k images, more than a grid has rows": (check_matching, (64, 1, 70_000), (5, 1, 40)),
    "IoU matrix of more than 2^31": (check_matrix, (50_000, 45_000), (120, 100)),
    "50M pairs": (check_pairs, (50_000_000,), (200,)),
}
every_check = pytest.mark.parametrize("name", CHECKS)


@pytest.mark.slow
@every_check
def test_at_scale(cuda, name):
    check, large, _ = CHECKS[name]
    check(cuda, *large)


@every_check
def test_the_check_itself(name):
    check, _, small = CHECKS[name]
    check("cpu", *small)
