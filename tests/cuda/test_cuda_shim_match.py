"""match_boxes' CUDA device code, run on the CPU through tests/cuda_shim, against the CPU operator."""

import pytest
import torch
from test_cuda_shim import call, generator, library, pytestmark, random_boxes, same_bits  # noqa: F401

import mlc_ext
from mlc_ext.ops.match_boxes import _FORCED


def shim_match(library, priors, gts, offsets, crowd, rule):  # noqa: F811
    """-> labels, candidate_gt, ious; every element starts as 77."""
    batch, n = len(offsets) - 1, len(priors)
    labels, matched = torch.full((batch, n), 77, dtype=torch.int8), torch.full((batch, n), 77)
    ious = priors.new_full((batch, n), 77)
    name = "float" if priors.dtype == torch.float32 else "double"
    function = getattr(library("driver_match"), f"shim_match_boxes_{name}")
    order = [float(rule[key]) for key in ("high", "low")] + [_FORCED.index(rule["forced"])]
    order += [float(rule[key]) for key in ("min_forced_iou", "crowd_iof")]
    call(function, priors, n, gts, offsets, batch, len(gts), crowd, *order, labels, matched, ious)
    return labels, matched, ious


def check(library, priors, gts, counts, crowd=None, **rule):  # noqa: F811
    offsets = torch.tensor([0, *counts]).cumsum(0)
    rule = {"forced": "forcing", "min_forced_iou": 0.0, "crowd_iof": 0.5} | rule
    expected = mlc_ext.match_boxes(priors, gts, offsets, crowd=crowd, **rule)
    labels, matched, ious = shim_match(library, priors, gts, offsets, crowd, rule)
    assert torch.equal(labels, expected.labels)
    assert torch.equal(matched, expected.candidate_gt)
    same_bits(ious, expected.ious)
    return expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("forced", _FORCED)
@pytest.mark.parametrize("with_crowd", [True, False])
def test_match_boxes(library, dtype, forced, with_crowd):  # noqa: F811
    g = generator(5)
    counts = [71, 0, 6]  # three rounds of 32, the last in part; three images on two rows of blocks
    priors, gts = random_boxes(150, g, dtype=dtype).round(), random_boxes(77, g, size=70, dtype=dtype).round()
    crowd = torch.rand(77, generator=g) < 0.3 if with_crowd else None
    expected = check(library, priors, gts, counts, crowd, high=0.5, low=0.4, forced=forced)
    assert set(expected.labels.unique().tolist()) == {-1, 0, 1}


def test_ties_and_several_forcing_gts(library):  # noqa: F811
    """Equal gts of one round and of different ones: all force the same priors, the last one has them."""
    for count in (9, 32, 33, 70):
        gts = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(count, 1)
        priors = torch.tensor([[0.0, 0.0, 2.0, 8.0], [6.0, 0.0, 8.0, 8.0], [0.0, 0.0, 1.0, 8.0]])
        last = count - 1
        assert check(library, priors, gts, [count], high=0.5, low=0.4).candidate_gt.tolist() == [[last, last, -1]]
        # not forced: the first of equals
        rule = {"high": 0.5, "low": 0.1, "forced": None}
        assert check(library, priors, gts, [count], **rule).candidate_gt.tolist() == [[0, 0, 0]]


def test_a_gts_best_prior_may_be_in_any_block(library):  # noqa: F811
    """Three blocks of 64 priors, ties between them and within a warp; gts of one round less, as much and more."""
    g = generator(3)
    priors = random_boxes(40, g, size=12).round().repeat(4, 1)[torch.randperm(160, generator=g)].contiguous()
    for count in (5, 31, 32, 33):
        gts = random_boxes(count, g, size=12).round()
        expected = check(library, priors, gts, [count], high=0.9, low=0.5)
        assert len(((expected.labels == 1) & (expected.ious < 0.9)).nonzero()) > 4  # forced, and several times


def test_on_the_thresholds(library):  # noqa: F811
    gts = torch.tensor([[0.0, 0.0, 4.0, 4.0], [20.0, 0.0, 24.0, 4.0]])
    priors = [[0, 0, 4, 2], [0, 0, 4, 1], [0, 0, 2, 1], [22, 0, 26, 4], [23, 0, 27, 4]]
    rule = {"high": 0.5, "low": 0.25, "forced": None}
    expected = check(library, torch.tensor(priors).float(), gts, [2], torch.tensor([False, True]), **rule)
    assert expected.labels.tolist() == [[1, -1, 0, -1, 0]]


@pytest.mark.parametrize("forced", _FORCED)
def test_no_gts_one_image_of_many_and_the_rpn_rule(library, forced):  # noqa: F811
    g = generator(7)
    priors = random_boxes(70, g)
    rule = {"high": 0.7, "low": 0.3, "forced": forced}
    check(library, priors, torch.zeros(0, 4), [0, 0], **rule)
    check(library, priors, random_boxes(5, g), [0, 5, 0, 0], **rule, min_forced_iou=0.3)
    check(library, priors, random_boxes(5, g), [5], torch.ones(5, dtype=torch.bool), **rule)


def test_malformed_offsets_stay_inside_the_gts(library):  # noqa: F811
    """The GPU does not look at gt_offsets before the launch: an image has the gts that there are, or none."""
    g = generator(9)
    priors, gts = random_boxes(70, g), random_boxes(6, g)
    rule = {"high": 0.5, "low": 0.4, "forced": "forcing", "min_forced_iou": 0.0, "crowd_iof": 0.5}
    whole = mlc_ext.match_boxes(priors, gts, torch.tensor([0, 6]), high=0.5, low=0.4)
    offsets = torch.tensor([-(2**62), 2**62, 3, -5, -7])  # all six, then falling, falling, below 0
    labels, matched, ious = shim_match(library, priors, gts, offsets, None, rule)
    assert torch.equal(labels[0], whole.labels[0]) and torch.equal(matched[0], whole.candidate_gt[0])
    same_bits(ious[0], whole.ious[0])
    assert (labels[1:] == 0).all() and (matched[1:] == -1).all() and (ious[1:] == 0).all()


def lattice(n, dtype=torch.float32):
    """n priors of 4 x 4 along a diagonal of steps of 8: every warp has a hull with much room between its priors."""
    corner = torch.arange(n, dtype=dtype)[:, None] * 8
    return torch.cat([corner, corner, corner + 4, corner + 4], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gts_at_the_edge_of_a_hull(library, dtype):  # noqa: F811
    """A warp's hull of priors ends where a gt begins, or one step later; and a gt inside that meets no prior."""
    priors = lattice(75, dtype)  # warps of 32, 32 and 11, and one without priors
    end = priors[31, 2].item()
    beyond = torch.nextafter(torch.tensor(end, dtype=dtype), torch.tensor(0, dtype=dtype)).item()
    touching = [end, end - 8, end + 40, end + 40]
    gts = [touching, [beyond, end - 4, end + 1, end + 1], [4, 4, 8, 8], [5, 5, 7, 7], [-9, -9, 0, 0], [-9, -9, 1, 1]]
    gts = torch.tensor(gts, dtype=dtype)
    found = check(library, priors, gts, [6], high=0.5, low=0.01)
    assert found.ious[0, 31] > 0 and found.labels[0, 31] == 1  # its sliver is the second gt's best
    assert found.candidate_gt[0, 0] == 5 and (found.candidate_gt != 2).all() and (found.candidate_gt != 3).all()
    for crowd_iof in (1e-6, 0.5):
        everyone = torch.ones(6, dtype=torch.bool)
        labels = check(library, priors, gts, [6], everyone, high=0.5, low=0.4, crowd_iof=crowd_iof).labels[0]
        assert labels[1] == 0


@pytest.mark.parametrize("n", [1, 31, 32, 33, 64, 65, 129])
def test_warps_in_part_and_past_the_end(library, n):  # noqa: F811
    """Lanes past the end repeat the last prior, which here is the best of a gt."""
    priors = lattice(n)
    gts = torch.cat([priors[-1:] + 1, priors[:1] + 1, priors[n // 2 :][:1] - 1])
    found = check(library, priors, gts, [3], high=0.7, low=0.3)
    assert found.candidate_gt[0, -1] >= 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_odd_boxes_among_others(library, dtype):  # noqa: F811
    """Inverted, empty, infinite and NaN priors and gts, in any warp: the same as on CPU, and the others' results are
    those without them."""
    g, inf, nan = generator(8), float("inf"), float("nan")
    priors, gts = random_boxes(130, g, dtype=dtype), random_boxes(40, g, dtype=dtype)
    usual = check(library, priors, gts, [25, 15], high=0.5, low=0.2)
    odd = [[30, 30, 10, 10], [5, 5, 5, 9], [-inf, -inf, inf, inf], [10, 10, inf, inf], [inf, inf, inf, inf]]
    odd += [[-inf, 0, 10, 10], [20, 20, -inf, 30]]
    odd = torch.tensor(odd, dtype=dtype)
    check(library, torch.cat([priors[:70], odd, priors[70:]]), torch.cat([gts, odd]), [25, 22], high=0.5, low=0.2)
    nans = random_boxes(12, g, dtype=dtype)
    nans.view(-1)[torch.arange(12) * 4 + torch.arange(12) % 4] = nan
    with_nans = torch.cat([priors[:70], nans, priors[70:]])
    check(library, with_nans, gts, [25, 15], high=0.5, low=0.2)
    found = check(library, priors, torch.cat([gts, nans]), [25, 27], high=0.5, low=0.2)
    for ours, theirs in zip(found, usual, strict=True):
        assert torch.equal(ours, theirs)


def test_a_crowd_that_covers_nothing_hides_nothing(library):  # noqa: F811
    """Even where crowd_iof times the area rounds to 0; a gt that is no crowd has the index between two that are."""
    priors = lattice(40) * 2.0**-76
    crowd = torch.tensor([True, False, True])
    gts = torch.stack([priors[3] + 5 * 2.0**-76, priors[5], priors[9]])
    found = check(library, priors, gts, [3], crowd, high=0.5, low=0.4, crowd_iof=1e-9)
    assert found.labels[0, 5] == 1 and found.labels[0, 9] == -1 and (found.labels[0] == 0).sum() == 38
