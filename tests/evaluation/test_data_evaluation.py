"""COCO metrics: against hand cases, and against pycocotools run directly."""

from __future__ import annotations

import contextlib
import io
import math
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from coco_files import make_dataset, random_rows
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.evaluation.coco_metrics import CocoEvaluator, ProposalEvaluator

KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")
STATS = (0, 1, 2, 3, 4, 5, 6, 7, 8)  # where pycocotools' summary holds them


def outputs_of(boxes, scores, labels):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor(scores),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


def perfect(dataset: CocoDetection, index: int):
    target = dataset.target(index)
    keep = ~target["iscrowd"]
    return {
        "boxes": target["boxes"][keep],
        "labels": target["labels"][keep],
        "scores": torch.ones(int(keep.sum())),
    }


def noisy_outputs(dataset: CocoDetection, rng: np.random.Generator):
    """Detections in original pixels: jittered truths, wrong labels, and false alarms."""
    outputs = []
    for index in range(len(dataset)):
        boxes = dataset.target(index)["boxes"].numpy().repeat(3, axis=0)
        boxes = boxes + rng.normal(0, 4, boxes.shape).astype(np.float32)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        outputs.append(
            outputs_of(boxes, rng.uniform(size=len(boxes)).astype(np.float32), rng.integers(1, 4, len(boxes)))
        )
    return outputs


def direct_pycocotools(dataset: CocoDetection, outputs, **parameters):
    """pycocotools on the file itself, by its usual path (loadRes)."""
    results = []
    for image_id, output in zip(dataset.image_ids, outputs, strict=True):
        for (x1, y1, x2, y2), score, label in zip(
            output["boxes"].double().tolist(),
            output["scores"].double().tolist(),
            output["labels"].tolist(),
            strict=True,
        ):
            results.append(
                {
                    "image_id": image_id,
                    "category_id": dataset.label_to_category[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": score,
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.annotation_file))
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        for name, value in parameters.items():
            setattr(evaluation.params, name, value)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_pycocotools(tmp_path, seed, capsys):
    rng = np.random.default_rng(seed)
    dataset = make_dataset(tmp_path, random_rows(rng))
    outputs = noisy_outputs(dataset, rng)
    evaluator = CocoEvaluator(dataset)
    for image_id, output in zip(dataset.image_ids, outputs, strict=True):
        evaluator.update([image_id], [output])
    result = evaluator.summarize()
    assert capsys.readouterr().out == ""
    direct = direct_pycocotools(dataset, outputs)
    assert [result[key] for key in KEYS] == pytest.approx([direct.stats[k] for k in STATS], abs=1e-12)
    assert 0.02 < result["AP"] < 0.9


def test_perfect_detections(tmp_path):
    dataset = make_dataset(
        tmp_path, [(0, 2, (10, 10, 20, 20), 0), (0, 11, (50, 50, 60, 60), 0), (2, 11, (0, 0, 200, 200), 0)]
    )
    evaluator = CocoEvaluator(dataset)
    evaluator.update(dataset.image_ids, [perfect(dataset, k) for k in range(4)])
    assert len(evaluator.state_dict()["image_ids"]) == 4
    result = evaluator.summarize()
    assert [result[key] for key in KEYS] == pytest.approx([1.0] * 9)


def test_hand_case(tmp_path):
    """Two objects; the best detection is a false alarm, the second finds one object with IoU 0.8, the other
    object is missed: precision 1/2 up to recall 1/2 (51 of the 101 points), as far as the IoU counts."""
    dataset = make_dataset(tmp_path, [(0, 5, (0, 0, 100, 100), 0), (1, 5, (0, 0, 100, 100), 0)])
    evaluator = CocoEvaluator(dataset)
    evaluator.update([0], [outputs_of([[200, 200, 300, 300], [0, 0, 100, 80]], [0.9, 0.5], [2, 2])])
    result = evaluator.summarize()
    at = 0.5 * 51 / 101
    assert result["AP50"] == pytest.approx(at) and result["AP75"] == pytest.approx(at)
    assert result["AP"] == pytest.approx(at * 7 / 10)  # the thresholds .5, .55, ... .8: IoU 0.8 counts at 0.8
    assert result["AR1"] == 0 and result["AR10"] == pytest.approx(0.5 * 7 / 10)
    assert math.isnan(result["APs"]) and result["APl"] == pytest.approx(result["AP"])


def test_crowd_is_ignored(tmp_path):
    rows = [(0, 2, (0, 0, 50, 50), 0), (0, 2, (100, 100, 200, 200), 1)]
    dataset = make_dataset(tmp_path, rows)
    on_crowd = outputs_of([[110, 110, 150, 150], [160, 160, 200, 200], [0, 0, 50, 50]], [0.9, 0.8, 0.7], [1, 1, 1])
    evaluator = CocoEvaluator(dataset)
    evaluator.update([0], [on_crowd])
    assert evaluator.summarize()["AP"] == pytest.approx(1)  # neither false alarms nor an object to find
    elsewhere = outputs_of([[300, 10, 340, 50], [0, 0, 50, 50]], [0.9, 0.7], [1, 1])
    evaluator.reset()
    evaluator.update([0], [elsewhere])
    assert evaluator.summarize()["AP"] == pytest.approx(0.5)


def test_no_detections_at_all(tmp_path):
    dataset = make_dataset(tmp_path, [(0, 2, (0, 0, 50, 50), 0)])
    evaluator = CocoEvaluator(dataset)
    assert evaluator.summarize()["AP"] == 0
    evaluator.update(dataset.image_ids, [outputs_of([], [], [])] * 4)
    result = evaluator.summarize()
    assert result["AP"] == result["AR100"] == 0 and math.isnan(result["APs"])
    assert ProposalEvaluator(dataset).summarize()["AR@1000"] == 0


def test_no_objects_at_all(tmp_path):
    dataset = make_dataset(tmp_path, [])
    evaluator = CocoEvaluator(dataset)
    evaluator.update([0], [outputs_of([[0, 0, 9, 9]], [0.5], [1])])
    assert all(math.isnan(value) for value in evaluator.summarize().values())
    assert all(math.isnan(value) for value in ProposalEvaluator(dataset).summarize().values())


def test_no_image_counts_twice(tmp_path):
    dataset = make_dataset(tmp_path, [(0, 2, (0, 0, 50, 50), 0)])
    evaluator = CocoEvaluator(dataset)
    for _ in range(2):  # the padding of a distributed sampler, or the stand-in of a broken image
        evaluator.update([0, 0], [perfect(dataset, 0)] * 2)
    assert evaluator.state_dict()["image_ids"].tolist() == dataset.image_ids[:1] and evaluator.summarize()[
        "AP"
    ] == pytest.approx(1)


def _rank(rank: int, dataset: CocoDetection, rendezvous: Path, results) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    evaluator = CocoEvaluator(dataset)
    share = [0, 1] if rank == 0 else [2, 3, 0]  # image 0 twice: the padding of a sampler
    evaluator.update(share, [perfect(dataset, k) for k in share])
    alone = evaluator.summarize()["AR100"]
    evaluator.synchronize()
    results.put((rank, len(evaluator.state_dict()["image_ids"]), alone, evaluator.summarize()["AR100"]))
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no torch.distributed")
def test_ranks_come_together(tmp_path):
    dataset = make_dataset(tmp_path, [(i, 2, (0, 0, 50, 50), 0) for i in range(4)])
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [context.Process(target=_rank, args=(r, dataset, tmp_path / "meet", results)) for r in range(2)]
    for process in ranks:
        process.start()
    found = sorted(results.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join()
    assert found == [
        (0, 4, pytest.approx(0.5), pytest.approx(1)),
        (1, 4, pytest.approx(0.75), pytest.approx(1)),
    ]


def test_images_without_an_update_count(tmp_path):
    dataset = make_dataset(tmp_path, [(0, 2, (0, 0, 50, 50), 0), (1, 2, (0, 0, 50, 50), 0)])
    evaluator = CocoEvaluator(dataset)
    evaluator.update([1], [perfect(dataset, 1)])
    assert evaluator.summarize()["AR100"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="image 77 is not among"):
        evaluator.update([77], [perfect(dataset, 0)])


def test_dropped_annotations_do_not_count(tmp_path):
    dataset = make_dataset(
        tmp_path, [(0, 2, (0, 0, 50, 50), 0), (0, 2, (5, 5, 0, 5), 0), (0, 2, (float("nan"), 0, 5, 5), 0)]
    )
    evaluator = CocoEvaluator(dataset)
    evaluator.update([0], [perfect(dataset, 0)])
    assert evaluator.summarize()["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (outputs_of([[0, 0, 1, 1]], [0.5], [4]), r"label 4 is not in 1\.\.3"),
        (outputs_of([[0, 0, 1, 1]], [0.5], [0]), "label 0"),
        (outputs_of([[0, 0, 1, 1]], [float("nan")], [1]), "not finite"),
        (outputs_of([[0, 0, float("inf"), 1]], [0.5], [1]), "not finite"),
        (outputs_of([[0, 0, 1, 1]], [0.5, 0.4], [1]), r"scores \(2,\)"),
    ],
)
def test_bad_outputs(tmp_path, output, message):
    dataset = make_dataset(tmp_path, [(0, 2, (0, 0, 50, 50), 0)])
    with pytest.raises(ValueError, match=message):
        CocoEvaluator(dataset).update([0], [output])


def test_counts_must_agree(tmp_path):
    dataset = make_dataset(tmp_path, [(0, 2, (0, 0, 50, 50), 0)])
    with pytest.raises(ValueError, match="2 image ids and 1 outputs"):
        CocoEvaluator(dataset).update([0, 1], [perfect(dataset, 0)])


def test_proposal_recall_by_brute_force(tmp_path):
    """With objects far apart, an object is found at a threshold if one of the top n reaches that IoU."""
    rng = np.random.default_rng(3)
    rows = [
        (i, int(rng.choice([2, 5, 11])), (100.0 * k, 100.0 * j, 60.0, 40.0), 0)
        for i in range(4)
        for k in range(4)
        for j in range(4)
    ]
    rows.append((0, 2, (0.0, 380.0, 400.0, 15.0), 1))  # were this crowd an object, it would be missed
    dataset = make_dataset(tmp_path, rows)
    evaluator = ProposalEvaluator(dataset, counts=(10, 30, 100))
    hits = {10: 0.0, 30: 0.0, 100: 0.0}
    for index in range(4):
        keep = ~dataset.target(index)["iscrowd"]
        truth = dataset.target(index)["boxes"][keep].double().numpy()
        boxes = np.repeat(truth, 4, axis=0) + rng.uniform(-12, 12, (64, 4)).round(2)
        scores = rng.permutation(64) / 64.0
        evaluator.update([index], [{"boxes": torch.tensor(boxes), "scores": torch.tensor(scores)}])
        for n in hits:
            top = boxes[np.argsort(-scores)[:n]]
            overlap = (
                (np.minimum(truth[:, None, 2:], top[:, 2:]) - np.maximum(truth[:, None, :2], top[:, :2]))
                .clip(0)
                .prod(-1)
            )
            areas = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (truth, top)]
            best = (overlap / (areas[0][:, None] + areas[1] - overlap)).max(axis=1)
            hits[n] += (best[:, None] >= np.linspace(0.5, 0.95, 10)).mean(axis=1).sum()
    result = evaluator.summarize()
    for n, total in hits.items():
        assert result[f"AR@{n}"] == pytest.approx(total / 64)
    assert 0 < result["AR@10"] < result["AR@30"] < result["AR@100"] < 1
    assert result["ARm"] == pytest.approx(result["AR@100"]) and math.isnan(result["ARs"])


def test_proposals_equal_pycocotools_without_categories(tmp_path):
    rng = np.random.default_rng(5)
    dataset = make_dataset(tmp_path, [row[:3] + (0,) for row in random_rows(rng)])
    outputs = noisy_outputs(dataset, rng)
    evaluator = ProposalEvaluator(dataset, counts=(5, 20, 100))
    evaluator.update(dataset.image_ids, outputs)
    direct = direct_pycocotools(dataset, outputs, useCats=0, maxDets=[5, 20, 100])
    result = evaluator.summarize()
    expected = direct.eval["recall"][:, 0, 0, :].mean(axis=0)
    assert [result[f"AR@{n}"] for n in (5, 20, 100)] == pytest.approx(expected.tolist(), abs=1e-12)


@pytest.mark.parametrize("proposals", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_faster_coco_eval_gives_the_same_figures(tmp_path, seed, proposals):
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed (pip install mlc-ext[faster])")
    rng = np.random.default_rng(seed)
    dataset = make_dataset(tmp_path, random_rows(rng), num_images=6)
    outputs = noisy_outputs(dataset, rng)
    if seed == 4:
        outputs = [{key: value[:0] for key, value in output.items()} for output in outputs]
    kind, results = ProposalEvaluator if proposals else CocoEvaluator, []
    for backend in ("pycocotools", "faster_coco_eval"):
        evaluator = kind(dataset, backend=backend)
        assert type(evaluator._truth).__module__.startswith(backend)
        evaluator.update(dataset.image_ids[1:], outputs[1:])
        results.append(evaluator.summarize())
    ours, theirs = results
    assert ours == pytest.approx(theirs, abs=1e-9, nan_ok=True)
    assert seed == 4 or any(value > 0.05 for value in ours.values())


def test_data_evaluator_falls_back(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    dataset = make_dataset(tmp_path, [(0, 2, [10, 10, 50, 50], 0)])
    evaluator = CocoEvaluator(dataset, backend="faster_coco_eval")
    assert isinstance(evaluator._truth, COCO) and "pip install mlc-ext[faster]" in caplog.text
    with pytest.raises(ValueError, match="must be pycocotools or faster_coco_eval, got 'fast'"):
        CocoEvaluator(dataset, backend="fast")
