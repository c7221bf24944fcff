"""mutual_labels against its reference, Eq. 4-8 by hand, and segmented_otsu."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import dtypes, on, rng, same_bits, seeds, segments, value_pools

from mlc_ext import MutualLabels, mutual_labels, reference, segmented_otsu

ALPHAS = [0.0, 0.5, 1.0, 2.0, 0.7]
POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def label(device, scores, ious, ids, baseline, k, **options):
    result = mutual_labels(*on(device, scores, ious, ids, baseline), k, **options)
    assert all(t.device.type == device for t in result)
    return MutualLabels(*(t.cpu() for t in result))


def close(actual: MutualLabels, expected: MutualLabels, alpha: float) -> None:
    """Labels and thresholds to the bit; weights too, unless both sides round a power on their own."""
    for name in ("cls_labels", "loc_labels", "score_thresholds", "iou_thresholds"):
        same_bits(getattr(actual, name), getattr(expected, name))
    for name in ("cls_weights", "loc_weights"):
        a, e = getattr(actual, name), getattr(expected, name)
        if alpha in (0.0, 1.0, 2.0):
            same_bits(a, e)
        else:
            torch.testing.assert_close(a, e)


@st.composite
def cases(draw):
    """Scores, IoUs, ids, baseline labels and K; a baseline positive always belongs to a gt."""
    scores, ids, k = draw(segments(max_size=36))
    ious = draw(st.lists(draw(value_pools), min_size=len(ids), max_size=len(ids)))
    baseline = [draw(st.integers(-1, 1 if i >= 0 else 0)) for i in ids]
    return scores, ious, ids, baseline, k


def as_inputs(case, dtype=torch.float64):
    scores, ious, ids, baseline, _ = case
    scores, ious = (torch.tensor(v, dtype=torch.float64).clamp(-200, 200).to(dtype) for v in (scores, ious))
    return scores, ious, torch.tensor(ids, dtype=torch.int64), torch.tensor(baseline, dtype=torch.int8)


options = st.fixed_dictionaries(
    {
        "alpha": st.sampled_from(ALPHAS),
        "degenerate": st.sampled_from(["baseline", "literal"]),
        "bins": st.sampled_from([None, None, 8]),
    }
)


@given(cases(), dtypes, options)
def test_reference(device, case, dtype, options):
    inputs = as_inputs(case, dtype)
    expected = reference.mutual_labels(*inputs, case[-1], **options)
    close(label(device, *inputs, case[-1], **options), expected, options["alpha"])


@given(cases(), options)
def test_definition(device, case, options):
    """Eq. 4-8 prior by prior, from segmented_otsu's thresholds alone."""
    scores, ious, ids, baseline = as_inputs(case)
    k, alpha, bins = case[-1], options["alpha"], options["bins"]
    got = label(device, scores, ious, ids, baseline, k, **options)
    same_bits(got.score_thresholds, segmented_otsu(scores, ids, k, bins=bins))
    same_bits(got.iou_thresholds, segmented_otsu(ious, ids, k, bins=bins))
    for j, (group, before) in enumerate(zip(ids.tolist(), baseline.tolist(), strict=True)):

        def verdict(values, thresholds, group=group, before=before, j=j):
            if group < 0:
                return before, 0.0 if before == IGNORED else 1.0
            members = values[ids == group]
            if bool((members == members[0]).all()) and options["degenerate"] == "baseline":
                return before, 0.0 if before == IGNORED else 1.0
            value, tau = values[j].item(), thresholds[group].item()
            return int(value > tau), abs(value - tau) ** alpha if before == IGNORED else 1.0

        cls, loc = verdict(ious, got.iou_thresholds), verdict(scores, got.score_thresholds)
        loc = loc if loc[0] == POSITIVE else (NEGATIVE, 0.0)
        assert (got.cls_labels[j], got.loc_labels[j]) == (cls[0], loc[0])
        assert got.cls_weights[j].item() == pytest.approx(cls[1], rel=1e-12)
        assert got.loc_weights[j].item() == pytest.approx(loc[1], rel=1e-12)


def test_worked_example(device):
    """One gt of five candidates and one prior of no gt, by hand.

    IoUs .1 .2 .8 .9 .2: the best cut is below .8, so tau = .2; positive for classification are 2 and 3.
    Scores .1 .7 .1 .9 .8: the best cut is below .7, so tau = .1; positive for localization are 1, 3 and 4.
    """
    ious = torch.tensor([0.1, 0.2, 0.8, 0.9, 0.2, 0.9], dtype=torch.float64)
    scores = torch.tensor([0.1, 0.7, 0.1, 0.9, 0.8, 0.9], dtype=torch.float64)
    ids = torch.tensor([0, 0, 0, 0, 0, -1])
    baseline = torch.tensor([IGNORED, IGNORED, IGNORED, POSITIVE, POSITIVE, NEGATIVE], dtype=torch.int8)
    got = label(device, scores, ious, ids, baseline, 1, alpha=2.0)
    assert got.iou_thresholds.tolist() == [0.2] and got.score_thresholds.tolist() == [0.1]
    assert got.cls_labels.tolist() == [0, 0, 1, 1, 0, 0]
    assert got.loc_labels.tolist() == [0, 1, 0, 1, 1, 0]
    # originally ignored: the squared margin; the value on the threshold weighs nothing
    assert got.cls_weights.tolist() == pytest.approx([0.01, 0.0, 0.36, 1.0, 1.0, 1.0])
    assert got.loc_weights.tolist() == pytest.approx([0.0, 0.36, 0.0, 1.0, 1.0, 0.0])


@pytest.mark.parametrize("alpha", ALPHAS)
def test_weight_of_an_ignored_candidate(device, alpha):
    values = torch.tensor([0.0, 0.25, 1.0])
    ids, baseline = torch.zeros(3, dtype=torch.int64), torch.full((3,), IGNORED, dtype=torch.int8)
    got = label(device, values, values, ids, baseline, 1, alpha=alpha)
    assert got.iou_thresholds.item() == 0.25
    assert got.cls_weights.tolist() == pytest.approx([0.25**alpha, 0.0**alpha, 0.75**alpha])
    assert got.loc_weights.tolist() == pytest.approx([0, 0, 0.75**alpha])


@pytest.mark.parametrize("degenerate", ["baseline", "literal"])
def test_degenerate_gts_are_judged_per_task(device, degenerate):
    """Gt 0 has equal IoUs, gt 1 equal scores, gt 2 a single candidate, gt 3 none."""
    ids = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    ious = torch.tensor([0.5, 0.5, 0.5, 0.1, 0.2, 0.9, 0.7])
    scores = torch.tensor([0.1, 0.2, 0.9, 0.5, 0.5, 0.5, 0.7])
    baseline = torch.tensor([1, -1, 0, 1, -1, 0, 1], dtype=torch.int8)
    got = label(device, scores, ious, ids, baseline, 4, alpha=1.0, degenerate=degenerate)
    fallback = degenerate == "baseline"
    assert got.cls_labels.tolist() == ([1, -1, 0] if fallback else [0, 0, 0]) + [0, 0, 1] + [int(fallback)]
    assert got.loc_labels.tolist() == [0, 0, 1] + ([1, 0, 0] if fallback else [0, 0, 0]) + [int(fallback)]
    # kept as ignored: no loss; literally negative: a margin of 0 to the threshold, which weighs 0 as well
    assert got.cls_weights.tolist() == pytest.approx([1, 0, 1, 1, 0, 1, 1])
    assert got.loc_weights.tolist() == pytest.approx([0, 0, 1] + [int(fallback), 0, 0] + [int(fallback)])
    assert got.iou_thresholds.tolist()[:3] == pytest.approx([0.5, 0.2, 0.7])
    assert got.iou_thresholds.isnan().tolist() == [False, False, False, True]


def test_literal_weights_of_a_degenerate_gt_at_alpha_zero(device):
    """0^0 = 1: FCOS- weighs every candidate alike, on the threshold or off it."""
    ids, baseline = torch.zeros(2, dtype=torch.int64), torch.tensor([-1, -1], dtype=torch.int8)
    same = torch.tensor([0.5, 0.5])
    got = label(device, same, same, ids, baseline, 1, alpha=0.0, degenerate="literal")
    assert got.cls_labels.tolist() == [0, 0] and got.cls_weights.tolist() == [1, 1]
    assert got.loc_labels.tolist() == [0, 0] and got.loc_weights.tolist() == [0, 0]


def test_priors_of_no_gt_keep_their_label(device):
    values = torch.tensor([0.5, 0.75, float("nan")])  # what is no candidate is not looked at
    ids, baseline = torch.full((3,), -1), torch.tensor([0, -1, 0], dtype=torch.int8)
    for k in (0, 2):
        got = label(device, values, values, ids, baseline, k, alpha=0.5)
        assert got.cls_labels.tolist() == [0, -1, 0] and got.cls_weights.tolist() == [1, 0, 1]
        assert got.loc_labels.tolist() == [0, 0, 0] and got.loc_weights.tolist() == [0, 0, 0]
        assert got.iou_thresholds.isnan().all() and got.iou_thresholds.shape == (k,)


def test_nothing_at_all(device):
    got = label(device, *[torch.zeros(0)] * 2, torch.zeros(0).long(), torch.zeros(0, dtype=torch.int8), 0, alpha=1.0)
    assert [t.shape for t in got] == [(0,)] * 6
    assert [t.dtype for t in got] == [torch.int8, torch.int8] + [torch.float32] * 4


@given(seeds, options)
def test_many_priors(device, seed, options):
    """Groups beyond the sorted path, and the invariants that hold whatever the values."""
    g, n, k = rng(seed), 2000, 7
    ids = torch.randint(-1, k, (n,), generator=g)
    baseline = torch.randint(-1, 2, (n,), generator=g).where(ids >= 0, 0).to(torch.int8)
    scores, ious = torch.rand(n, generator=g) ** 4, torch.rand(n, generator=g)
    got = label(device, scores, ious, ids, baseline, k, **options)
    close(got, reference.mutual_labels(scores, ious, ids, baseline, k, **options), options["alpha"])
    candidate = ids >= 0
    above = ious[candidate] > got.iou_thresholds[ids[candidate]]
    assert torch.equal(got.cls_labels[candidate] == POSITIVE, above)
    assert ((got.loc_labels == POSITIVE) | (got.loc_weights == 0)).all()
    for group in range(k):  # an object is never lost: both tasks have a positive of every gt
        assert got.cls_labels[ids == group].max() == POSITIVE and got.loc_labels[ids == group].max() == POSITIVE


@pytest.mark.parametrize("n", [255, 256, 257, 511, 512, 513, 1025])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_sizes_around_a_block(device, n, alpha):
    """Priors are labeled in blocks, values counted in blocks; with gts that cannot be split and priors of none."""
    g = rng(n)
    ids = torch.randint(-1, 3, (n,), generator=g)
    baseline = torch.randint(-1, 2, (n,), generator=g).where(ids >= 0, 0).to(torch.int8)
    scores = torch.rand(n, generator=g).where(ids != 1, 0.25)
    ious = torch.rand(n, generator=g).where(ids != 2, 0.5)
    for degenerate in ("baseline", "literal"):
        options = {"alpha": alpha, "degenerate": degenerate}
        got = label(device, scores, ious, ids, baseline, 3, **options)
        close(got, reference.mutual_labels(scores, ious, ids, baseline, 3, **options), alpha)


@given(cases(), options, seeds)
def test_permutation(device, case, options, seed):
    inputs = as_inputs(case)
    order = torch.randperm(len(inputs[0]), generator=rng(seed))
    got = label(device, *(t[order] for t in inputs), case[-1], **options)
    expected = label(device, *inputs, case[-1], **options)
    for a, e in zip(got, expected, strict=True):
        same_bits(a, e[order] if e.shape == order.shape and e is not expected[4] and e is not expected[5] else e)


@given(cases(), options, st.integers(-20, 20))
def test_scaling_by_a_power_of_two(device, case, options, exponent):
    """Labels stay, thresholds scale, weights |value - tau|^alpha scale with it."""
    options |= {"alpha": float(round(options["alpha"]))}  # other powers round
    scores, ious, ids, baseline = as_inputs(case)
    scale = 2.0**exponent
    got = label(device, scores * scale, ious * scale, ids, baseline, case[-1], **options)
    expected = label(device, scores, ious, ids, baseline, case[-1], **options)
    weight = torch.where(baseline == IGNORED, scale ** options["alpha"], 1.0)
    scales = {"cls_weights": weight, "loc_weights": weight, "score_thresholds": scale, "iou_thresholds": scale}
    for name, ours in got._asdict().items():
        same_bits(ours, getattr(expected, name) * scales[name] if name in scales else getattr(expected, name))


@given(cases(), cases(), dtypes, options)
def test_merging_batches(device, first, second, dtype, options):
    one, two = as_inputs(first, dtype), as_inputs(second, dtype)
    k = first[-1]
    shifted = torch.where(two[2] >= 0, two[2] + k, -1)
    both = [torch.cat(pair) for pair in zip(one, (*two[:2], shifted, two[3]), strict=True)]
    merged = label(device, *both, k + second[-1], **options)
    apart = zip(label(device, *one, k, **options), label(device, *two, second[-1], **options), strict=True)
    for ours, parts in zip(merged, apart, strict=True):
        same_bits(ours, torch.cat(parts))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_baseline_labels_of_any_integer_type(device, dtype):
    ids, values = torch.zeros(3, dtype=torch.int64), torch.tensor([0.1, 0.2, 0.9])
    got = label(device, values, values, ids, torch.tensor([-1, 0, 1], dtype=dtype), 1, alpha=1.0)
    assert got.cls_labels.tolist() == [0, 0, 1]


def test_views_and_threads(threads):
    g, n, k = rng(), 50_000, 20
    both = torch.rand(n, 2, generator=g)
    ids = torch.randint(0, k, (n, 2), generator=g)[:, 0]
    baseline = torch.randint(-1, 2, (n, 3), generator=g).to(torch.int8)[:, 1]
    results = []
    for count in (1, 3):
        threads(count)
        results.append(mutual_labels(both[:, 0], both[:, 1], ids, baseline, k, alpha=0.5))
    dense = [t.contiguous() for t in (both[:, 0], both[:, 1], ids, baseline)]
    for a, b, c in zip(*results, mutual_labels(*dense, k, alpha=0.5), strict=True):
        same_bits(a, b)
        same_bits(a, c)


def test_no_gradient_flows(device):
    values = torch.rand(4, device=device, requires_grad=True)
    ids, baseline = (
        torch.zeros(4, dtype=torch.int64, device=device),
        torch.zeros(4, dtype=torch.int8, device=device),
    )
    assert not any(t.requires_grad for t in mutual_labels(values, values, ids, baseline, 1, alpha=1.0))
