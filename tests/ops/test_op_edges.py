"""The operators at the edges: no or one element, every type, any layout, and sizes where 32-bit indices end."""

from pathlib import Path

import pytest
import torch
from comparisons import DTYPES, rng, same_bits, same_values
from op_programs import GROUPS, every_program, tensors

from mlc_ext import (
    batched_iou_nms,
    batched_rescored_nms,
    box_iou,
    match_boxes,
    mutual_labels,
    paired_box_iou,
    reference,
    segmented_otsu,
    segmented_spearman,
    topk_alignment,
)


@every_program
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_few_elements_of_every_type(device, program, dtype):
    """0, 1 and 2 elements (of 3 groups, of a batch; 0 and 1 gts), as the reference has them."""
    for size in (0, 1, 2, 3):
        inputs = [t.detach() for t in program.inputs(device, size, dtype)]
        expected = tensors(program.expected(*(t.cpu() for t in inputs)))
        for ours, theirs in zip(tensors(program.run(*inputs)), expected, strict=True):
            assert ours.device.type == device
            if program.exact:
                same_values(ours, theirs.to(ours.dtype))
            else:
                torch.testing.assert_close(ours.cpu(), theirs.to(ours.dtype), rtol=1e-6, atol=0)


def strided(t):
    """Every second element of every dimension of a larger tensor, away from its start."""
    wide = torch.zeros([2 * s + 1 for s in t.shape], dtype=t.dtype, device=t.device)
    view = wide[tuple(slice(1, None, 2) for _ in t.shape)]
    return view.copy_(t)


def turned(t):
    """The dimensions in memory in the opposite order."""
    order = tuple(reversed(range(t.dim())))
    return t.permute(order).contiguous().permute(order)


def negated(t):
    """Lazily: the memory holds -t. Of whole numbers and bools there is no such view."""
    return torch.complex(t, -t).conj().imag if t.dtype in (torch.float32, torch.float64) else t


def expanded(t):
    """One element along the first dimension, seen many times. Offsets of gts must rise, so they stay."""
    return t if t.dtype == torch.int64 and t.dim() == 1 and len(t) == GROUPS else t[:1].expand_as(t)


@every_program
@pytest.mark.parametrize("layout", [strided, turned, negated, expanded], ids=lambda layout: layout.__name__)
def test_layouts_are_read_where_they_point(device, program, layout):
    views = [layout(t.detach()) for t in program.inputs(device, 13, torch.float64)]
    dense = [t.resolve_neg().clone(memory_format=torch.contiguous_format) for t in views]
    assert any(not v.is_contiguous() or v.is_neg() or v.dim() < 2 for v in views)
    if layout is expanded:  # a positive that belongs to no gt is an error
        views, dense = ([torch.zeros_like(t) if t.dtype == torch.int8 else t for t in ts] for ts in (views, dense))
    for ours, theirs in zip(tensors(program.run(*views)), tensors(program.run(*dense)), strict=True):
        same_bits(ours.detach(), theirs.detach())


def large_boxes(n: int, seed: int) -> torch.Tensor:
    """[n, 4] float32 of whole pixels: IoUs are quotients of exact areas."""
    g = rng(seed)
    corner = torch.randint(0, 900, (n, 2), generator=g)
    return torch.cat([corner, corner + torch.randint(20, 200, (n, 2), generator=g)], 1).float()


def corners(n: int, count: int = 40) -> torch.Tensor:
    """Indices at the near and the far end of n, and between."""
    return torch.cat([torch.arange(count), torch.randint(0, n, (count,), generator=rng(n)), torch.arange(n - count, n)])


def check_matrix(boxes1, boxes2):
    """box_iou against the reference at the ends of rows and columns: where an index that wrapped would land."""
    matrix = box_iou(boxes1, boxes2)
    assert matrix.shape == (len(boxes1), len(boxes2))
    rows, columns = corners(len(boxes1)), corners(len(boxes2))
    same_values(matrix[rows][:, columns], reference.box_iou(boxes1[rows], boxes2[columns]))


def test_a_detectors_matrix():
    check_matrix(large_boxes(200_000, 0), large_boxes(500, 1))  # 400 MB


def need_memory(gigabytes: float) -> None:
    """Skips the calling test where so much, and 2 GB beside it, is not free."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        pytest.skip(f"needs {gigabytes} GB of memory, and this system does not say what is free")
    available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20
    if available < gigabytes + 2:
        pytest.skip(f"needs {gigabytes} GB of memory and 2 beside it, {available:.1f} are free")


@pytest.mark.slow
def test_a_matrix_of_more_than_2_31_entries():
    need_memory(4.5)
    check_matrix(large_boxes(50_000, 0).bfloat16(), large_boxes(45_000, 1).bfloat16())


def check_match(num_priors: int, num_gts: int) -> None:
    """match_boxes against the reference on a few priors with all gts. Forced matches depend on every prior: they are
    judged by their gts' best IoU instead."""
    priors, gts = large_boxes(num_priors, 2), large_boxes(num_gts, 3)
    offsets = torch.tensor([0, num_gts])
    some = corners(num_priors, 100)
    found = match_boxes(priors, gts, offsets, high=0.7, low=0.5, forced=None)
    expected = reference.match_boxes(priors[some], gts, offsets, high=0.7, low=0.5, forced=None)
    for ours, theirs in zip(found, expected, strict=True):
        same_values(ours[:, some], theirs)
    forced = match_boxes(priors, gts, offsets, high=0.7, low=0.5)
    same_bits(forced.ious, found.ious)
    changed = torch.where((forced.candidate_gt != found.candidate_gt)[0])[0]
    best = torch.stack([box_iou(priors, gt[None]).amax() for gt in gts[:: num_gts // 20]])
    changed = changed[torch.isin(forced.candidate_gt[0, changed], torch.arange(0, num_gts, num_gts // 20))]
    of = forced.candidate_gt[0, changed]
    same_values(paired_box_iou(priors[changed], gts[of]), best[of // (num_gts // 20)])
    assert (forced.labels[0, changed] == 1).all()


def test_matching_of_many_priors():
    check_match(200_000, 100)


@pytest.mark.slow
def test_matching_of_more_than_2_31_pairs():
    check_match(3_000_000, 800)


def test_logits_of_more_than_2_31_entries():
    """Of nearly all rows the memory is reserved and never touched."""
    need_memory(4.5)
    num_priors, classes = 50_000, 43_000
    boxes = large_boxes(num_priors, 4)[None] + 10_000
    boxes[0, -3:] = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2], [0, 0, 4, 3]])
    logits = torch.empty(1, num_priors, classes, dtype=torch.float16)
    logits[0, -3:] = -20.0
    logits[0, -3:, -1] = torch.tensor([-1.0, 0, 1])
    gts, image = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([0])
    found = topk_alignment(boxes, gts, image, 4, logits=logits, columns=torch.tensor([classes - 1]), beta=1.0)
    assert found.prior.tolist() == [[num_priors - n for n in (1, 3, 2)] + [-1]]
    expected = torch.tensor([-1.0, 0, 1]).sigmoid() * torch.tensor([1, 0.5, 0.75])
    torch.testing.assert_close(found.metric[0, :3], expected.sort(descending=True).values)


def test_many_values_in_one_group():
    """Sums of products of ranks, about n^3, are far above 2^63."""
    n = 4_000_000
    x = torch.arange(n, dtype=torch.float32)
    rho, count = segmented_spearman(x, x.flip(0), torch.zeros(n, dtype=torch.int64), 1)
    assert rho.item() == -1 and count.item() == n
    swapped = x.clone()
    swapped[[0, -1]] = swapped[[-1, 0]]
    rho, _ = segmented_spearman(x, swapped, torch.zeros(n, dtype=torch.int64), 1)
    assert rho.item() == pytest.approx(1 - 6 * 2 * (n - 1) ** 2 / (n * (n * n - 1)), abs=1e-15)


def test_otsu_of_many_values():
    n = 10_000_000
    values = torch.arange(n, dtype=torch.float64).remainder(1000)
    values = values.where(values < 700, values + 5000)  # two clusters: 0..699 and 5700..5999
    assert segmented_otsu(values, torch.zeros(n, dtype=torch.int64), 1).item() == 699


def test_no_groups_and_no_gts(device):
    """K = 0 where there are values, and gts that no image has."""
    values, none = torch.rand(5, device=device), torch.full((5,), -1, device=device)
    assert segmented_otsu(values, none, 0).shape == (0,)
    labels = mutual_labels(values, values, none, none, 0, alpha=1.0)
    assert (labels.cls_labels == -1).all() and labels.score_thresholds.shape == (0,)
    rho, count = segmented_spearman(values, values, none, 0)
    assert rho.shape == count.shape == (0,)
    boxes = large_boxes(5, 0).to(device)
    for offsets in ([0], [0, 0, 0]):
        found = match_boxes(boxes, boxes[:0], torch.tensor(offsets, device=device), high=0.5, low=0.4)
        assert all(t.shape == (len(offsets) - 1, 5) for t in found)
        assert not found.labels.any() and (found.candidate_gt == -1).all() and not found.ious.any()


def test_nms_that_keeps_nothing(device):
    boxes = large_boxes(6, 0).to(device).view(2, 3, 4)
    scores = torch.full((2, 3), 0.5, device=device)
    for nms in (batched_rescored_nms, batched_iou_nms):
        for limits in ({"score_threshold": 0.5}, {"pre_nms_top_k": 0}, {"max_detections": 0}):
            result = nms(boxes, scores, scores, None, 0.5, **limits)
            assert not result.counts.any() and (result.keep == -1).all() and not result.scores.any()
