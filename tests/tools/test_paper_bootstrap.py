"""The bootstrap of benchmarks/paper_tables.py against pycocotools."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from benchmark_modules import benchmark_modules
from coco_files import make_dataset, random_rows

from mlc_ext.detectors.evaluation.coco_metrics import CocoEvaluator, ProposalEvaluator


@pytest.fixture(scope="module")
def bootstrap():
    return benchmark_modules("paper.bootstrap")[0]


def outputs_near(dataset, rng, digits=1):
    """Boxes near the objects and elsewhere, with scores that repeat or, of many digits, do not."""
    for k, image_id in enumerate(dataset.image_ids):
        boxes = dataset.target(k)["boxes"].repeat(5, 1)
        boxes = boxes + torch.from_numpy(rng.normal(scale=8, size=boxes.shape)).float()
        boxes[:, 2:] = boxes[:, 2:].maximum(boxes[:, :2] + 1)
        scores = torch.from_numpy(rng.uniform(size=len(boxes)).round(digits)).double()
        yield image_id, {"boxes": boxes, "labels": dataset.target(k)["labels"].repeat(5), "scores": scores}


@pytest.mark.parametrize("seed", range(5))
def test_matches_give_pycocotools_figures(bootstrap, tmp_path, seed):
    rng = np.random.default_rng(seed)
    dataset = make_dataset(tmp_path, random_rows(rng))
    outputs = dict(outputs_near(dataset, rng))
    detection, proposals = CocoEvaluator(dataset), ProposalEvaluator(dataset, counts=(3, 10, 1000))
    for evaluator in (detection, proposals):
        evaluator.update(list(outputs), list(outputs.values()))
    found = bootstrap.match(detection.truth, detection.results())
    for name in ("AP", "AP50", "AP75"):
        assert found.metric(name)[0] == pytest.approx(detection.summarize()[name], abs=1e-12)
    recalls = bootstrap.match(proposals.truth, proposals.results(), max_detections=1000, recall_at=(3, 10, 1000))
    for name in ("AR@3", "AR@10", "AR@1000"):
        assert recalls.metric(name)[0] == pytest.approx(proposals.summarize()[name], abs=1e-12)


@pytest.mark.parametrize("counts", [[2, 0, 1, 3], [0, 0, 4, 0], [1, 2, 0, 1]])
def test_a_resample_gives_pycocotools_figures(bootstrap, tmp_path, counts):
    """The images of a resample written out as a data set of their own."""
    rng = np.random.default_rng(0)
    dataset = make_dataset(tmp_path, random_rows(rng))
    evaluator = CocoEvaluator(dataset)
    outputs = dict(outputs_near(dataset, rng, 16))
    evaluator.update(list(outputs), list(outputs.values()))
    match = bootstrap.match
    images, annotations, results = [], [], []
    for k, image in enumerate(evaluator.truth["images"]):
        for again in range(counts[k]):
            copy = 100 * again + image["id"]
            images.append({**image, "id": copy})
            for old, new in ((evaluator.truth["annotations"], annotations), (evaluator.results(), results)):
                new += [{**row, "image_id": copy} for row in old if row["image_id"] == image["id"]]
    # copies of a detection have one rank: of two, a true and a false one, the order would decide
    results = [{**row, "score": row["score"] - 1e-9 * (row["image_id"] // 100)} for row in results]
    annotations = [{**row, "id": k} for k, row in enumerate(annotations, start=1)]
    drawn = match({**evaluator.truth, "images": images, "annotations": annotations}, results)
    once = match(evaluator.truth, evaluator.results())
    batch = np.array([counts, [1, 1, 1, 1], [2 * n for n in counts]], dtype=np.float32)
    for name in ("AP", "AP50", "AP75"):
        found = once.metric(name, batch)
        assert found[0] == pytest.approx(drawn.metric(name)[0], abs=1e-9)
        assert found[1] == pytest.approx(once.metric(name)[0], abs=1e-12)


def slow_average_precision(image, true, false, objects, counts):
    """As COCOeval.accumulate writes it, over all detections, an image as often as it was drawn."""
    values = []
    for t in range(len(true)):
        hits = np.cumsum(true[t] * counts[image])
        misses = np.cumsum(false[t] * counts[image])
        recall, precision = hits / (objects @ counts), hits / np.maximum(hits + misses, np.spacing(1))
        for k in range(len(precision) - 1, 0, -1):
            precision[k - 1] = max(precision[k - 1], precision[k])
        at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
        values.append(sum(precision[k] for k in at if k < len(precision)) / 101)
    return values


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_of_resamples(bootstrap, seed):
    """True and false positives, and at each threshold other detections that match a crowd."""
    rng = np.random.default_rng(seed)
    image, kind = rng.integers(12, size=300), rng.choice(3, size=(10, 300), p=[0.3, 0.6, 0.1])
    if seed < 2:
        kind[:, :] = kind[0]
    objects = rng.integers(5, 40, size=12).astype(float)
    matches = bootstrap.ClassMatches(image, kind == 0, kind == 1, objects)
    counts = rng.multinomial(12, np.full(12, 1 / 12), size=70)
    found = matches.average_precision(counts.astype(np.float32))
    for row, drawn in zip(found, counts, strict=True):
        np.testing.assert_allclose(row, slow_average_precision(image, kind == 0, kind == 1, objects, drawn), atol=1e-12)


def test_nothing_found_and_nothing_there(bootstrap, tmp_path):
    match = bootstrap.match
    dataset = make_dataset(tmp_path, random_rows(np.random.default_rng(0), 9))
    truth = CocoEvaluator(dataset).truth
    assert match(truth, []).metric("AP") == [0]
    assert np.isnan(match({**truth, "annotations": []}, []).metric("AP")).all()


def test_differences(bootstrap, tmp_path):
    """The same detections differ by 0 with certainty; better ones by more than nothing."""
    rng = np.random.default_rng(1)
    dataset = make_dataset(tmp_path, random_rows(rng))
    outputs = dict(outputs_near(dataset, rng))
    exact = {
        image_id: {**dataset.target(k), "scores": torch.ones(len(dataset.target(k)["labels"]))}
        for k, image_id in enumerate(dataset.image_ids)
    }
    draws, values, plain = bootstrap.Bootstrap(4, 200), {}, {}
    for name, found in (("near", outputs), ("exact", exact)):
        evaluator = CocoEvaluator(dataset)
        evaluator.update(list(found), list(found.values()))
        matches = bootstrap.match(evaluator.truth, evaluator.results())
        values[name], plain[name] = draws.values(matches, "AP"), matches.metric("AP")[0]
    assert values["near"].shape == (200,) and np.array_equal(draws.counts.sum(1), np.full(200, 4.0))
    same = draws.difference(np.zeros(2), np.zeros((2, 200)))
    assert same == bootstrap.Difference(0, 0, 0, 1)
    better = draws.difference(np.array([plain["exact"] - plain["near"]]), (values["exact"] - values["near"])[None])
    assert better.mean == pytest.approx(plain["exact"] - plain["near"])
    assert 0 < better.low < better.mean < better.high and better.p == pytest.approx(2 / 201)


def test_seeds_are_drawn_too(bootstrap):
    """Seeds that differ widen the interval to the range of their means; the images alone would leave no width."""
    draws = bootstrap.Bootstrap(10, 4000)
    found = draws.difference(np.array([-1.0, 1.0, 3.0]), np.array([[-1.0], [1.0], [3.0]]) * np.ones((3, 4000)))
    means = [np.mean(chosen) for chosen in itertools.product([-1.0, 1.0, 3.0], repeat=3)]
    assert found.mean == 1 and found.low == np.quantile(means, 0.025, method="inverted_cdf")
    assert found.high == np.quantile(means, 0.975, method="inverted_cdf")
    below = np.mean(np.array(means) <= 0)
    assert abs(found.p - 2 * below) < 5 * 2 * (below / 4000) ** 0.5


def test_holm(bootstrap):
    """An example computed by hand, and the definition: reject in order while p <= level / comparisons left."""
    holm = bootstrap.holm
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.6, 0.9]) == [1, 1]
    rng = np.random.default_rng(0)
    for _ in range(20):
        p_values = rng.uniform(size=7) ** 3
        corrected = np.array(holm(p_values))
        for level in (0.01, 0.05, 0.2):
            order, rejected = np.argsort(p_values), set()
            for step, k in enumerate(order):
                if p_values[k] > level / (7 - step):
                    break
                rejected.add(k)
            assert set(np.flatnonzero(corrected <= level)) == rejected
