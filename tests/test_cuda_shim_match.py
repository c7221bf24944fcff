"""match_boxes' CUDA device code, run on the CPU through tests/cuda_shim, against the CPU operator."""

import pytest
import torch
from test_cuda_shim import call, generator, library, pytestmark, random_boxes, same_bits  # noqa: F401

import mlc_ext


def shim_match(library, priors, gts, offsets, crowd, rule):  # noqa: F811
    """-> labels, matched_gt, ious; every element starts as 77."""
    batch, n = len(offsets) - 1, len(priors)
    labels, matched = torch.full((batch, n), 77, dtype=torch.int8), torch.full((batch, n), 77)
    ious = priors.new_full((batch, n), 77)
    name = "float" if priors.dtype == torch.float32 else "double"
    function = getattr(library("driver_match"), f"shim_match_boxes_{name}")
    order = [float(rule[key]) for key in ("high", "low")] + [int(rule["low_quality"])]
    order += [float(rule[key]) for key in ("min_forced_iou", "crowd_iof")]
    call(function, priors, n, gts, offsets, batch, len(gts), crowd, *order, labels, matched, ious)
    return labels, matched, ious


def check(library, priors, gts, counts, crowd=None, **rule):  # noqa: F811
    offsets = torch.tensor([0, *counts]).cumsum(0)
    rule = {"low_quality": True, "min_forced_iou": 0.0, "crowd_iof": 0.5} | rule
    expected = mlc_ext.match_boxes(priors, gts, offsets, crowd=crowd, **rule)
    labels, matched, ious = shim_match(library, priors, gts, offsets, crowd, rule)
    assert torch.equal(labels, expected.labels)
    assert torch.equal(matched, expected.matched_gt)
    same_bits(ious, expected.ious)
    return expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("with_crowd", [True, False])
def test_match_boxes(library, dtype, low_quality, with_crowd):  # noqa: F811
    g = generator(5)
    counts = [11, 0, 6]  # several tiles of 4; three images on two rows of blocks
    priors, gts = random_boxes(150, g, dtype=dtype).round(), random_boxes(17, g, dtype=dtype).round()
    crowd = torch.rand(17, generator=g) < 0.3 if with_crowd else None
    expected = check(library, priors, gts, counts, crowd, high=0.5, low=0.4, low_quality=low_quality)
    assert set(expected.labels.unique().tolist()) == {-1, 0, 1}


def test_ties_and_several_forcing_gts(library):  # noqa: F811
    """Equal gts in different tiles: all force the same priors, the last one has them."""
    gts = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(9, 1)
    priors = torch.tensor([[0.0, 0.0, 2.0, 8.0], [6.0, 0.0, 8.0, 8.0], [0.0, 0.0, 1.0, 8.0]])
    assert check(library, priors, gts, [9], high=0.5, low=0.4).matched_gt.tolist() == [[8, 8, -1]]


def test_a_gts_best_prior_may_be_in_any_block(library):  # noqa: F811
    """Three blocks of 64 priors, ties between them and within a warp; gts of one tile less, as much and more."""
    g = generator(3)
    priors = random_boxes(40, g, size=12).round().repeat(4, 1)[torch.randperm(160, generator=g)].contiguous()
    for count in (3, 4, 5):
        gts = random_boxes(count, g, size=12).round()
        expected = check(library, priors, gts, [count], high=0.9, low=0.5)
        assert len(((expected.labels == 1) & (expected.ious < 0.9)).nonzero()) > 4  # forced, and several times


def test_on_the_thresholds(library):  # noqa: F811
    gts = torch.tensor([[0.0, 0.0, 4.0, 4.0], [20.0, 0.0, 24.0, 4.0]])
    priors = [[0, 0, 4, 2], [0, 0, 4, 1], [0, 0, 2, 1], [22, 0, 26, 4], [23, 0, 27, 4]]
    rule = {"high": 0.5, "low": 0.25, "low_quality": False}
    expected = check(library, torch.tensor(priors).float(), gts, [2], torch.tensor([False, True]), **rule)
    assert expected.labels.tolist() == [[1, -1, 0, -1, 0]]


@pytest.mark.parametrize("low_quality", [True, False])
def test_no_gts_one_image_of_many_and_the_rpn_rule(library, low_quality):  # noqa: F811
    g = generator(7)
    priors = random_boxes(70, g)
    rule = {"high": 0.7, "low": 0.3, "low_quality": low_quality}
    check(library, priors, torch.zeros(0, 4), [0, 0], **rule)
    check(library, priors, random_boxes(5, g), [0, 5, 0, 0], **rule, min_forced_iou=0.3)
    check(library, priors, random_boxes(5, g), [5], torch.ones(5, dtype=torch.bool), **rule)


def test_malformed_offsets_stay_inside_the_gts(library):  # noqa: F811
    """The GPU does not look at gt_offsets before the launch: an image has the gts that there are, or none."""
    g = generator(9)
    priors, gts = random_boxes(70, g), random_boxes(6, g)
    rule = {"high": 0.5, "low": 0.4, "low_quality": True, "min_forced_iou": 0.0, "crowd_iof": 0.5}
    whole = mlc_ext.match_boxes(priors, gts, torch.tensor([0, 6]), high=0.5, low=0.4)
    offsets = torch.tensor([-(2**62), 2**62, 3, -5, -7])  # all six, then falling, falling, below 0
    labels, matched, ious = shim_match(library, priors, gts, offsets, None, rule)
    assert torch.equal(labels[0], whole.labels[0]) and torch.equal(matched[0], whole.matched_gt[0])
    same_bits(ious[0], whole.ious[0])
    assert (labels[1:] == 0).all() and (matched[1:] == -1).all() and (ious[1:] == 0).all()
