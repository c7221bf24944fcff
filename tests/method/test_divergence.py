import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from mlc_ext import box_iou
from mlc_ext import divergence as module
from mlc_ext.divergence import Divergence, segmented_spearman, spearman

seeds = st.integers(0, 2**31)
# Few distinct values give ties and constant groups, many give neither.
levels = st.sampled_from([1, 2, 3, 10, 10**9])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def quantized(n, count, g, dtype=torch.float64):
    return torch.randint(0, count, (n,), generator=g).to(dtype) / count


def scipy_rho(x, y):
    if len(x) < 2:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant input
        return spearmanr(np.asarray(x), np.asarray(y)).statistic


@settings(deadline=None, max_examples=100)
@given(seeds, st.integers(0, 60), st.integers(1, 8), levels, levels)
def test_segmented_spearman_is_scipys(seed, n, num_segments, x_levels, y_levels):
    g = rng(seed)
    x, y = quantized(n, x_levels, g), quantized(n, y_levels, g, torch.float32)
    ids = torch.randint(-1, num_segments, (n,), generator=g)
    rho, count = segmented_spearman(x, y, ids, num_segments)
    assert rho.dtype == torch.float64 and count.dtype == torch.int64
    want = torch.tensor([scipy_rho(x[ids == k], y[ids == k]) for k in range(num_segments)], dtype=torch.float64)
    torch.testing.assert_close(rho, want, rtol=0, atol=1e-12, equal_nan=True)
    assert count.tolist() == [(ids == k).sum().item() for k in range(num_segments)]


@pytest.mark.parametrize("x_levels", [5, 1000, 10**9])
def test_large_group_is_scipys(x_levels):
    x = quantized(300_000, x_levels, rng())
    y = x + quantized(300_000, 10**6, rng(1))
    assert 0.5 < spearman(x, y) < 0.95
    assert spearman(x, y) == pytest.approx(scipy_rho(x, y), abs=1e-12)


def test_ranks_only():
    x = quantized(200, 10**6, rng(2))
    ties = quantized(200, 4, rng(3))
    for order in (x, ties):
        assert spearman(order, order) == spearman(order, (order * 5 - 3) ** 3) == 1
        assert spearman(order, -order) == spearman(-order.exp(), order) == -1
    y = quantized(200, 30, rng(4))
    assert spearman(x, y) == spearman(y, x) == -spearman(-x, y)
    # Exact sums: not a bit depends on the order of the pairs.
    shuffle = torch.randperm(200, generator=rng(5))
    assert spearman(x, y) == spearman(x[shuffle], y[shuffle])


def test_undefined_is_nan():
    assert math.isnan(spearman([], []))
    assert math.isnan(spearman([1.0], [2.0]))
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3])) and math.isnan(spearman([1, 2, 3], [0.5, 0.5, 0.5]))
    assert math.isnan(spearman([0.0, -0.0], [1, 2]))
    assert spearman([1, 2], [7, 9]) == 1 and spearman(np.array([1, 2, 3])[::-1], [math.inf, 5, -math.inf]) == 1
    x = torch.tensor([1.0, math.nan, 3.0, 1.0, 2.0, 3.0])
    ids = torch.tensor([0, 0, 0, 2, 2, 2])
    for rho, n in (
        segmented_spearman(x, torch.arange(6.0), ids, 3),
        segmented_spearman(torch.arange(6.0), x, ids, 3),
    ):
        assert rho.isnan().tolist() == [True, True, False] and rho[2] == 1 and n.tolist() == [3, 0, 3]
    rho, n = segmented_spearman(x[:0], x[:0], ids[:0], 0)
    assert rho.shape == n.shape == (0,)


def test_segmented_spearman_refuses():
    x, ids = torch.rand(3), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"y must have the shape of x \[3\], got \[2\]"):
        segmented_spearman(x, x[:2], ids, 1)
    with pytest.raises(TypeError, match="segment_ids must be Long, got Int"):
        segmented_spearman(x, x, ids.int(), 1)
    for wrong in (2, -2):
        with pytest.raises(ValueError, match=rf"segment_ids\[1\] is {wrong}, outside"):
            segmented_spearman(x, x, torch.tensor([0, wrong, 1]), 2)
    with pytest.raises(ValueError, match="negative, got -1"):
        segmented_spearman(x, x, ids, -1)


def random_boxes(n, g):
    corner = torch.rand(n, 2, generator=g) * 60
    return torch.cat((corner, corner + 10 + torch.rand(n, 2, generator=g) * 40), dim=1)


def random_image(g, predictions=(0, 150), gts=(0, 6), num_classes=3):
    """Random detector: jittered gts and noise, scores with ties, some crowd."""
    p, k = (int(torch.randint(low, high + 1, (), generator=g)) for low, high in (predictions, gts))
    gt_boxes = random_boxes(k, g).round()
    boxes = random_boxes(p, g)
    if k > 0:
        near = torch.rand(p, generator=g) < 0.7
        jittered = gt_boxes[torch.randint(0, k, (p,), generator=g)] + torch.randn(p, 4, generator=g) * 4
        boxes = torch.where(near[:, None], jittered, boxes)
    targets = {
        "boxes": gt_boxes,
        "labels": torch.randint(1, num_classes + 1, (k,), generator=g),
        "iscrowd": torch.randint(0, 4, (k,), generator=g) == 0,
    }
    scores = quantized(p * num_classes, 50, g, torch.float32).view(p, num_classes) ** 2
    quality = torch.rand(p, 1, generator=g)
    return {"boxes": boxes, "scores": scores * quality, "raw_scores": scores}, targets


# Ranges of predictions and gts for images that leave no figure undefined.
BUSY = (400, 600), (3, 5)


def slow_divergence(images, top_k=50, score_threshold=0.05, iou_threshold=0.5):
    """The two protocols prediction by prediction."""
    rhos, pooled = [], []
    for predictions, targets in images:
        ious = box_iou(predictions["boxes"], targets["boxes"])
        matches = {k: [] for k, crowd in enumerate(targets["iscrowd"].tolist()) if not crowd}
        raw_scores = predictions.get("raw_scores", predictions["scores"])
        for c in range(predictions["scores"].shape[1]):
            of_class = [k for k in matches if targets["labels"][k] == c + 1]
            for p in range(len(ious)):
                best = max(of_class, key=lambda k: ious[p, k].item(), default=None)  # noqa: B023
                if best is None or ious[p, best] == 0:
                    continue
                pair = (predictions["scores"][p, c].item(), ious[p, best].item())
                matches[best].append(pair)
                if raw_scores[p, c] > score_threshold and pair[1] >= iou_threshold:
                    pooled.append(pair)
        for pairs in matches.values():
            top = sorted(pairs, key=lambda pair: -pair[0])[:top_k]
            rhos.append(scipy_rho([s for s, _ in top], [i for _, i in top]))
    defined = [rho for rho in rhos if not math.isnan(rho)]
    return {
        "per_gt": np.mean(defined) if defined else math.nan,
        "per_gt_count": len(defined),
        "per_gt_skipped": len(rhos) - len(defined),
        "pooled": scipy_rho([s for s, _ in pooled], [i for _, i in pooled]),
        "pooled_count": len(pooled),
    }


def run(images, **settings_):
    divergence = Divergence(**settings_)
    for predictions, targets in images:
        divergence.update(predictions, targets)
    return divergence


@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(1, 3), st.sampled_from([2, 5, 50]), st.booleans())
def test_is_the_slow_implementation(seed, count, top_k, raw):
    g = rng(seed)
    images = [random_image(g) for _ in range(count)]
    if not raw:
        images = [({k: p[k] for k in ("boxes", "scores")}, t) for p, t in images]
    settings_ = {"top_k": top_k, "score_threshold": 0.25, "iou_threshold": 0.6}
    assert run(images, **settings_).compute() == pytest.approx(
        slow_divergence(images, **settings_), abs=1e-12, nan_ok=True
    )


def test_defaults_are_the_slow_implementations():
    g = rng(7)
    images = [random_image(g, *BUSY) for _ in range(4)]
    got, want = run(images).compute(), slow_divergence(images)
    assert got == pytest.approx(want, abs=1e-12)
    assert got["per_gt_count"] > 5 and got["pooled_count"] > 100
    assert got != pytest.approx(slow_divergence(images, top_k=40), abs=1e-3)


def detector(rule, n=300, seed=0, num_classes=2):
    """One gt a class and n jittered boxes, whose score for both classes is `rule` of the IoU with its gt."""
    g = rng(seed)
    gts = torch.tensor([[10.0, 10.0, 60.0, 60.0], [30.0, 20.0, 90.0, 70.0]])[:num_classes]
    boxes = gts[torch.arange(n) % num_classes] + torch.randn(n, 4, generator=g) * 5
    scores = rule(box_iou(boxes, gts))
    return {"boxes": boxes, "scores": scores}, {"boxes": gts, "labels": torch.arange(num_classes) + 1}


@pytest.mark.parametrize(
    ("rule", "want"), [(lambda iou: iou, 1), (lambda iou: 1 - iou / 2, -1), (lambda iou: iou**9 / 2 + 0.1, 1)]
)
def test_perfect_and_reversed_rankings(rule, want):
    result = run([detector(rule, seed=s) for s in range(3)]).compute()
    assert result["per_gt"] == want and result["per_gt_count"] == 6 and result["per_gt_skipped"] == 0
    # float32 x^9 may tie two IoUs that differ: then rho is not exactly 1
    assert result["pooled"] == pytest.approx(want, abs=1e-6) and result["pooled_count"] > 500


def test_random_scores_do_not_correlate():
    images = [detector(lambda iou, s=s: torch.rand(iou.shape, generator=rng(s)), seed=s) for s in range(40)]
    result = run(images).compute()
    assert abs(result["per_gt"]) < 0.06 and abs(result["pooled"]) < 0.03


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_monotone_transforms_of_scores_change_nothing(seed):
    """The threshold stays on the raw scores."""
    predictions, targets = random_image(rng(seed))
    predictions = {k: v.double() for k, v in predictions.items()}
    want = run([(predictions, targets)]).compute()
    for transform in (lambda s: s * 0.001, lambda s: s**3, lambda s: (3 * s).exp() - 40):
        transformed = predictions | {"scores": transform(predictions["scores"])}
        assert run([(transformed, targets)]).compute() == pytest.approx(want, abs=1e-15, nan_ok=True)


@pytest.mark.parametrize("first_label", [0, 7])
def test_labels_may_start_anywhere(first_label):
    predictions, targets = random_image(rng(11), *BUSY)
    want = run([(predictions, targets)]).compute()
    shifted = targets | {"labels": targets["labels"] - 1 + first_label}
    divergence = run([(predictions, shifted)], first_label=first_label)
    assert divergence.compute() == pytest.approx(want, nan_ok=True)
    assert Divergence.from_state_dict(divergence.state_dict()).first_label == first_label
    last = first_label + predictions["scores"].shape[1] - 1
    for wrong in (first_label - 1, last + 1):
        labels = torch.full_like(targets["labels"], wrong)
        with pytest.raises(ValueError, match=f"labels must be in {first_label}..{last}, got {wrong}"):
            divergence.update(predictions, targets | {"labels": labels})


def test_an_image_by_hand():
    """A gt of each of two classes in one place; one of class 1 elsewhere."""
    targets = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [20, 0, 30, 10]]),
        "labels": torch.tensor([1, 2, 1]),
    }
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [40, 0, 50, 10], [20, 0, 30, 9]])
    scores = torch.tensor([[0.9, 0.04], [0.5, 0.3], [0.6, 0.2], [1.0, 1.0], [0.7, 0.1]])
    result = run([({"boxes": boxes, "scores": scores}, targets)]).compute()
    # gt 0: scores .9 .5 .6, IoU 1 .5 .4 -> 1/2. gt 1: .04 .3 .2 -> -1/2. gt 2 has one match: skipped.
    assert result["per_gt"] == pytest.approx(0) and result["per_gt_count"] == 2 and result["per_gt_skipped"] == 1
    # IoU 1, .5 and .9 of class 1; .5 of class 2 (its .04 is below the threshold): scores .9 .5 .7 .3.
    assert result["pooled_count"] == 4
    assert result["pooled"] == pytest.approx(scipy_rho([0.9, 0.5, 0.7, 0.3], [1, 0.5, 0.9, 0.5]), abs=1e-12)


def test_ties_go_to_the_lower_index():
    box = torch.tensor([[0.0, 0, 10, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8], [0, 0, 10, 7]])
    # Two equal gts: the first takes every match, the second none.
    scores = torch.tensor([0.9, 0.8, 0.8, 0.8])[:, None]
    targets = {"boxes": box.repeat(2, 1), "labels": torch.ones(2, dtype=torch.int64)}
    result = run([({"boxes": boxes, "scores": scores}, targets)], top_k=2).compute()
    assert (result["per_gt"], result["per_gt_count"], result["per_gt_skipped"]) == (1, 1, 1)
    # Of the equal scores the top 3 take the first two: .9 .8 .8 against 1 .9 .8.
    result = run([({"boxes": boxes, "scores": scores}, targets)], top_k=3).compute()
    assert result["per_gt"] == pytest.approx(scipy_rho([0.9, 0.8, 0.8], [1, 0.9, 0.8]), abs=1e-12)
    # With one score below, the first three of the equals are taken: constant, hence skipped.
    result = run([({"boxes": boxes, "scores": scores.roll(-1, 0) * 0 + 0.5}, targets)], top_k=3).compute()
    assert math.isnan(result["per_gt"]) and result["per_gt_skipped"] == 2


def test_nothing_to_measure():
    nothing = {"per_gt_count": 0, "per_gt_skipped": 0, "pooled_count": 0}
    predictions, targets = detector(lambda iou: iou, n=20)
    no_gts = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    crowd = targets | {"iscrowd": torch.ones(2, dtype=torch.int64)}
    no_predictions = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0, 2)}
    low = predictions | {"scores": torch.full((20, 2), 0.01)}
    one = {k: v[:1] for k, v in low.items()}
    for image, skipped in (
        (None, 0),
        ((predictions, no_gts), 0),
        ((no_predictions, no_gts), 0),
        ((predictions, crowd), 0),
        ((no_predictions, targets), 2),
        ((one, targets), 2),
        ((low, targets), 2),
    ):
        result = run([] if image is None else [image]).compute()
        assert math.isnan(result["per_gt"]) and math.isnan(result["pooled"])
        assert {k: result[k] for k in nothing} == nothing | {"per_gt_skipped": skipped}


def test_crowd_is_as_if_it_were_not_there():
    predictions, targets = detector(lambda iou: iou, n=50)
    crowd = {
        "boxes": torch.cat((predictions["boxes"][:3], targets["boxes"])),
        "labels": torch.tensor([1, 2, 1, 1, 2]),
        "iscrowd": torch.tensor([1, 1, 1, 0, 0]),
    }
    assert run([(predictions, crowd)]).compute() == run([(predictions, targets)]).compute()


def test_half_predictions_are_compared_in_float32():
    predictions, targets = random_image(rng(9), *BUSY)
    half = {k: v.bfloat16() for k, v in predictions.items()}
    single = {k: v.float() for k, v in half.items()}
    assert run([(half, targets)]).compute() == run([(single, targets)]).compute()


def test_slices_of_the_matrix_change_nothing(monkeypatch):
    g = rng(10)
    images = [random_image(g, *BUSY) for _ in range(3)]
    want = run(images).compute()
    monkeypatch.setattr(module, "_MATRIX_ENTRIES", 7)
    assert run(images).compute() == want


def test_merge_and_state():
    g = rng(11)
    images = [random_image(g, *BUSY) for _ in range(6)]
    want = run(images).compute()
    parts = [run(images[i::3]) for i in range(3)]
    total = Divergence()
    for part in parts:  # as all_gather_object hands them over
        assert total.merge(Divergence.from_state_dict(pickle.loads(pickle.dumps(part.state_dict())))) is total
    assert total.compute() == pytest.approx(want, abs=1e-14)
    assert parts[0].compute() == run(images[0::3]).compute()  # untouched
    # A loaded state goes on, and shares nothing with its source.
    part = run(images[:2])
    resumed = Divergence.from_state_dict(part.state_dict())
    for image in images[2:]:
        resumed.update(*image)
    assert resumed.compute() == want and part.compute() == run(images[:2]).compute()
    doubled = part.compute()["per_gt_count"] * 2
    assert part.merge(part).compute()["per_gt_count"] == doubled
    part.reset()
    assert part.compute()["per_gt_count"] == 0
    with pytest.raises(ValueError, match="'top_k': 50.*'top_k': 10"):
        total.merge(Divergence(top_k=10))
    assert Divergence.from_state_dict(Divergence(top_k=10).state_dict()).top_k == 10


def test_refuses():
    predictions, targets = detector(lambda iou: iou, n=4)
    with pytest.raises(ValueError, match="top_k must be at least 2, got 1"):
        Divergence(top_k=1)
    nan = predictions["scores"].clone()
    nan[2, 1] = math.nan
    for wrong, error, words in (
        ({"scores": nan}, ValueError, "scores must be finite, got nan .1 in all"),
        ({"boxes": predictions["boxes"] / 0}, ValueError, "boxes must be finite, got inf"),
        ({"boxes": predictions["boxes"][:, :3]}, ValueError, r"\[P, 4\], got \[4, 3\]"),
        ({"scores": predictions["scores"][:3]}, ValueError, r"\[4, C\], got \[3, 2\]"),
        ({"raw_scores": predictions["scores"][:, :1]}, ValueError, r"raw_scores .*\[4, 2\], got \[4, 1\]"),
        ({"labels": torch.tensor([1, 3])}, ValueError, r"in 1\.\.2, got 3"),
        ({"labels": torch.tensor([0, 1])}, ValueError, r"in 1\.\.2, got 0"),
        ({"labels": torch.tensor([1.0, 2.0])}, TypeError, "int64, got torch.float32"),
        ({"labels": torch.tensor([1])}, ValueError, r"got \[2, 4\] and \[1\]"),
        ({"iscrowd": torch.zeros(3)}, ValueError, r"iscrowd .*\[2\], got \[3\]"),
    ):
        of_targets = {"labels", "iscrowd"} & wrong.keys()
        with pytest.raises(error, match=words):
            Divergence().update(
                predictions if of_targets else predictions | wrong, targets | wrong if of_targets else targets
            )
