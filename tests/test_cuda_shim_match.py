"""match_boxes' CUDA device code, run on the CPU through the shim, against the CPU operator. See test_cuda_shim.py."""

import pytest
import torch
from test_cuda_shim import call, generator, library, pytestmark, random_boxes, same_bits  # noqa: F401  (a fixture)

import mlc_ext


def check(library, priors, gts, counts, crowd=None, **rule):  # noqa: F811
    offsets = torch.tensor([0, *counts]).cumsum(0)
    rule = {"low_quality": True, "min_forced_iou": 0.0, "crowd_iof": 0.5} | rule
    expected = mlc_ext.match_boxes(priors, gts, offsets, crowd=crowd, **rule)
    labels, matched, ious = (torch.full_like(t, 77) for t in expected)
    name = "float" if priors.dtype == torch.float32 else "double"
    function = getattr(library("driver_match"), f"shim_match_boxes_{name}")
    order = [float(rule[key]) for key in ("high", "low")] + [int(rule["low_quality"])]
    order += [float(rule[key]) for key in ("min_forced_iou", "crowd_iof")]
    call(function, priors, len(priors), gts, offsets, len(counts), len(gts), crowd, *order, labels, matched, ious)
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


def test_no_gts_and_the_rpn_rule(library):  # noqa: F811
    g = generator(7)
    priors = random_boxes(70, g)
    check(library, priors, torch.zeros(0, 4), [0, 0], high=0.7, low=0.3)
    check(library, priors, random_boxes(5, g), [5], high=0.7, low=0.3, min_forced_iou=0.3)
