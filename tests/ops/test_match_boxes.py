"""match_boxes against reference.py, a rule written out by hand, and MMDetection's recorded assignments."""

import pytest
import torch
from golden import load_golden
from hypothesis import given
from hypothesis import strategies as st
from strategies import on, rng, same_bits, seeds

import mlc_ext
from mlc_ext import reference

RETINANET = {"high": 0.5, "low": 0.4}
RPN = {"high": 0.7, "low": 0.3, "min_forced_iou": 0.3}


def boxes(n: int, generator: torch.Generator, size: float = 64.0, rounded: bool = False) -> torch.Tensor:
    center = torch.rand(n, 2, generator=generator) * size
    half = torch.rand(n, 2, generator=generator) * size / 4
    made = torch.cat((center - half, center + half), 1)
    return made.round() if rounded else made  # whole pixels: ties are common


def offsets(counts: list[int]) -> torch.Tensor:
    return torch.tensor([0, *counts]).cumsum(0)


def check(device, priors, gts, gt_offsets, crowd=None, **rule):
    moved = on(device, priors, gts, gt_offsets, crowd)
    actual = mlc_ext.match_boxes(*moved[:3], crowd=moved[3], **rule)
    expected = reference.match_boxes(priors, gts, gt_offsets, crowd=crowd, **rule)
    assert torch.equal(actual.labels.cpu(), expected.labels)
    assert torch.equal(actual.candidate_gt.cpu(), expected.candidate_gt)
    same_bits(actual.ious, expected.ious.to(priors.dtype))
    return actual


@given(
    seed=seeds,
    num_priors=st.integers(0, 40) | st.integers(500, 1100),
    counts=st.lists(st.integers(0, 6), max_size=4),
    rounded=st.booleans(),
    with_crowd=st.booleans(),
    forced=st.sampled_from([None, "forcing", "own_best"]),
    rule=st.sampled_from([RETINANET, RPN, {"high": 0.5, "low": 0.5}, {"high": 0.0, "low": 0.0}]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_equals_reference(device, seed, num_priors, counts, rounded, with_crowd, forced, rule, dtype):
    generator = rng(seed)
    gts = boxes(sum(counts), generator, rounded=rounded).to(dtype)
    priors = boxes(num_priors, generator, rounded=rounded).to(dtype)
    crowd = torch.rand(len(gts), generator=generator) < 0.3 if with_crowd else None
    check(device, priors, gts, offsets(counts), crowd, forced=forced, **rule)


def test_threads_do_not_matter(threads):
    generator = rng(3)
    priors, gts = boxes(20_000, generator, 500, rounded=True), boxes(60, generator, 500, rounded=True)
    results = []
    for count in (1, 2, 4):
        threads(count)
        results.append(mlc_ext.match_boxes(priors, gts, offsets([40, 20]), **RETINANET))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_on_the_threshold(device):
    """IoU exactly 1/2 and 1/4: at least high is positive, at least low is ignored, below is negative."""
    gt = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    priors = torch.tensor([[0.0, 0.0, 4.0, 2.0], [0.0, 0.0, 4.0, 1.0], [0.0, 0.0, 2.0, 1.0], [9.0, 9.0, 12.0, 12.0]])
    found = check(device, priors, gt, offsets([1]), high=0.5, low=0.25, forced=None)
    assert found.ious.tolist() == [[0.5, 0.25, 0.125, 0.0]]
    assert found.labels.tolist() == [[1, -1, 0, 0]]
    assert found.candidate_gt.tolist() == [[0, 0, -1, -1]]


def test_forced_matches_are_all_ties_and_the_last_gt_wins(device):
    gts = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 8.0], [50.0, 50.0, 60.0, 60.0]])
    priors = torch.tensor([[0.0, 0.0, 2.0, 8.0], [6.0, 0.0, 8.0, 8.0], [0.0, 0.0, 1.0, 8.0]])
    found = check(device, priors, gts, offsets([3]), **RETINANET)
    assert found.labels.tolist() == [[1, 1, 0]]  # both of IoU 1/4; the third gt overlaps nothing and takes nothing
    assert found.candidate_gt.tolist() == [[1, 1, -1]]
    assert check(device, priors, gts, offsets([3]), **RPN).labels.tolist() == [[0, 0, 0]]  # 1/4 is below 0.3


def test_own_best_keeps_a_forced_prior_with_its_own_best_gt(device):
    """One prior is the best of both gts; the second has the smaller IoU with it. A gt of IoU 0 forces nothing."""
    gts = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 4.0, 16.0], [50.0, 50.0, 60.0, 60.0]])
    priors = torch.tensor([[0.0, 0.0, 6.0, 8.0], [9.0, 9.0, 12.0, 12.0], [0.0, 12.0, 1.0, 16.0]])
    for forced, gt in (("forcing", 1), ("own_best", 0), (None, 0)):
        found = check(device, priors, gts, offsets([3]), high=0.9, low=0.5, forced=forced)
        assert found.candidate_gt.tolist() == [[gt, -1, -1]]
        assert found.labels.tolist() == [[-1 if forced is None else 1, 0, 0]]


@given(seed=seeds, counts=st.lists(st.integers(1, 8), min_size=1, max_size=3), rule=st.sampled_from([RETINANET, RPN]))
def test_own_best_is_the_rule_of_torchvisions_matcher(device, seed, counts, rule):
    """Matcher(high, low, allow_low_quality_matches=True) written out; matches of IoU 0 excluded."""
    generator = rng(seed)
    priors, gts = boxes(300, generator), boxes(sum(counts), generator)
    rule = {key: rule[key] for key in ("high", "low")}
    found = mlc_ext.match_boxes(*on(device, priors, gts, offsets(counts)), forced="own_best", **rule)
    for image, (first, part) in enumerate(zip(offsets(counts).tolist(), gts.split(counts), strict=False)):
        matrix = reference.box_iou(part, priors)
        values, all_matches = matrix.max(0)
        matches = all_matches.clone()
        matches[values < rule["low"]] = -1
        matches[(values >= rule["low"]) & (values < rule["high"])] = -2
        highest = matrix.amax(1, keepdim=True)
        low_quality = ((matrix == highest) & (highest > 0)).any(0)
        matches[low_quality] = all_matches[low_quality]
        positive = matches >= 0
        labels, matched = found.labels[image].cpu(), found.candidate_gt[image].cpu()
        assert torch.equal(labels.long(), torch.where(positive, 1, torch.where(matches == -1, 0, -1)))
        assert torch.equal(matched[positive], first + matches[positive])


def test_crowd_matches_nothing_and_hides_negatives(device):
    gts = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 40.0, 20.0]])
    crowd = torch.tensor([False, True])
    corners = torch.tensor([[0, 0, 10, 10], [22, 2, 26, 6], [36, 0, 44, 4], [38, 0, 46, 4]])
    found = check(device, corners.float(), gts, offsets([2]), crowd, **RETINANET)
    assert found.labels.tolist() == [[1, -1, -1, 0]]  # covered by 1, 1/2 and 1/4 of their area
    assert found.candidate_gt.tolist() == [[0, -1, -1, -1]]


@st.composite
def scenes(draw):
    """priors, gts, their offsets, crowd and a rule; few or many priors, ties or none."""
    generator, rounded = rng(draw(seeds)), draw(st.booleans())
    counts = draw(st.lists(st.integers(0, 5), max_size=3))
    priors = boxes(draw(st.integers(0, 60)), generator, rounded=rounded)
    gts = boxes(sum(counts), generator, rounded=rounded)
    crowd = torch.rand(len(gts), generator=generator) < 0.2
    return priors, gts, offsets(counts), crowd, draw(st.sampled_from([RETINANET, RPN]))


def match(device, priors, gts, gt_offsets, crowd, rule):
    moved = on(device, priors, gts, gt_offsets, crowd)
    return mlc_ext.MatchedBoxes(*(t.cpu() for t in mlc_ext.match_boxes(*moved[:3], crowd=moved[3], **rule)))


@given(scenes())
def test_batches_do_not_mix(device, scene):
    """An image alone is matched as among others."""
    priors, gts, gt_offsets, crowd, rule = scene
    together = match(device, *scene)
    for b, (start, stop) in enumerate(zip(gt_offsets[:-1].tolist(), gt_offsets[1:].tolist(), strict=True)):
        alone = match(device, priors, gts[start:stop], offsets([stop - start]), crowd[start:stop], rule)
        same_bits(alone.labels[0], together.labels[b])
        same_bits(alone.ious[0], together.ious[b])
        same_bits(torch.where(alone.candidate_gt[0] >= 0, alone.candidate_gt[0] + start, -1), together.candidate_gt[b])


@given(scenes(), seeds)
def test_permuted_priors_are_permuted_results(device, scene, seed):
    order = torch.randperm(len(scene[0]), generator=rng(seed))
    for ours, theirs in zip(match(device, scene[0][order], *scene[1:]), match(device, *scene), strict=True):
        same_bits(ours, theirs[:, order])


@given(scenes(), seeds)
def test_permuted_gts(device, scene, seed):
    """Ties go by the gts' order: candidate_gt may differ between gts of one IoU, or two that force the prior."""
    priors, gts, gt_offsets, crowd, rule = scene
    images = zip(gt_offsets[:-1].tolist(), gt_offsets[1:].tolist(), strict=True)
    parts = [torch.arange(a, b)[torch.randperm(b - a, generator=rng(seed))] for a, b in images]
    order = torch.cat([*parts, torch.zeros(0, dtype=torch.int64)])
    ours, theirs = match(device, priors, gts[order], gt_offsets, crowd[order], rule), match(device, *scene)
    same_bits(ours.labels, theirs.labels)
    same_bits(ours.ious, theirs.ious)
    same_bits(ours.candidate_gt >= 0, theirs.candidate_gt >= 0)
    image, prior = torch.where(ours.candidate_gt >= 0)
    first, second = order[ours.candidate_gt[image, prior]], theirs.candidate_gt[image, prior]
    if len(image) == 0:
        return
    matrix = reference.box_iou(priors, gts)
    forces = matrix == matrix.amax(0)
    same_iou = matrix[prior, first] == matrix[prior, second]
    assert (same_iou | (forces[prior, first] & forces[prior, second])).all()


@given(scenes(), st.integers(-8, 8))
def test_scaling_by_a_power_of_two_changes_nothing(device, scene, exponent):
    priors, gts, *rest = scene
    scaled = match(device, priors * 2.0**exponent, gts * 2.0**exponent, *rest)
    for ours, theirs in zip(scaled, match(device, *scene), strict=True):
        same_bits(ours, theirs)


@pytest.mark.parametrize("side", range(4))
def test_a_nan_prior_changes_no_other(device, side):
    """Wherever it stands among its neighbors, whose hull it must not hide."""
    generator = rng(4)
    priors, gts = boxes(600, generator), boxes(20, generator)
    rule = {**RETINANET, "forced": None}  # a NaN prior may be a gt's best
    expected = match(device, priors, gts, offsets([20]), None, rule)
    for where in (0, 17, 300, 511, 599):
        odd = priors.clone()
        odd[where, side] = float("nan")
        rest = torch.arange(600) != where
        found = match(device, odd, gts, offsets([20]), None, rule)
        for ours, theirs in zip(found, expected, strict=True):
            same_bits(ours[:, rest], theirs[:, rest])


def test_non_contiguous(device):
    generator = rng(6)
    wide = boxes(40, generator).repeat(1, 2)
    check(device, wide[:, :4], boxes(8, generator)[::2], offsets([4]), **RETINANET)


@pytest.mark.parametrize("head, rule", [("retinanet", RETINANET), ("rpn", RPN)])
def test_golden(head, rule):
    for case in load_golden(head):
        anchors = torch.cat([case[f"anchors_{level}"] for level in range(sum(k.startswith("anchors_") for k in case))])
        gts = [case[f"gt_boxes_{i}"].float() for i in range(2)]
        found = mlc_ext.match_boxes(anchors, torch.cat(gts), offsets([len(g) for g in gts]), **rule)
        for i, start in enumerate((0, len(gts[0]))):
            index = torch.where(
                found.labels[i] == 1, found.candidate_gt[i] - start, -1 - (found.labels[i] == -1).long()
            )
            assert torch.equal(index, case[f"gt_index_{i}"])


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"priors": torch.zeros(3, 5)}, ValueError, r"priors must have shape \[N, 4\], got \[3, 5\]"),
        ({"priors": torch.zeros(3, 4, dtype=torch.int32)}, TypeError, "priors must be float16"),
        ({"gt_boxes": torch.zeros(2, 4).double()}, TypeError, "gt_boxes must have the dtype of priors"),
        ({"gt_offsets": torch.tensor([0, 1])}, ValueError, r"gt_offsets\[1\] is 1"),
        ({"gt_offsets": torch.tensor([0, 3, 2])}, ValueError, r"gt_offsets\[1\] is 3"),
        ({"gt_offsets": torch.tensor([1, 2])}, ValueError, r"gt_offsets\[0\] is 1"),
        ({"gt_offsets": torch.tensor([0.0, 2.0])}, TypeError, "gt_offsets must be Long"),
        ({"gt_offsets": torch.empty(0, dtype=torch.int64)}, ValueError, r"gt_offsets must have shape \[B \+ 1\]"),
        ({"crowd": torch.zeros(3, dtype=torch.bool)}, ValueError, r"crowd must have shape \[2\], got \[3\]"),
        ({"crowd": torch.zeros(2)}, TypeError, "crowd must be Bool"),
        ({"high": 0.3}, ValueError, "low 0.4, high 0.3"),
        ({"high": float("nan")}, ValueError, "high nan"),
        ({"min_forced_iou": 2.0}, ValueError, "min_forced_iou must be in .*, got 2"),
        ({"crowd_iof": 0.0}, ValueError, "crowd_iof must be in .*, got 0"),
        ({"forced": True}, ValueError, "forced must be one of None, 'forcing', 'own_best', got True"),
    ],
)
def test_errors(change, error, text):
    arguments = {"priors": torch.zeros(3, 4), "gt_boxes": torch.zeros(2, 4), "gt_offsets": torch.tensor([0, 2])}
    with pytest.raises(error, match=f"^match_boxes: .*{text}"):
        mlc_ext.match_boxes(**(arguments | RETINANET | change))
