"""benchmarks/label_analysis.py on small runs, counted again prior by prior and object by object."""

from __future__ import annotations

import math
import sys
from collections import Counter
from itertools import pairwise

import pytest
import torch
from assigner_cases import iou_of
from benchmark_modules import benchmark_modules
from small_runs import config_of

from mlc_ext import Divergence
from mlc_ext.detectors.data.generated.dataset import generate
from mlc_ext.detectors.data.loading.loader import build_loader
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.models.targets import prepare_targets
from mlc_ext.detectors.runs.load import load_for_evaluation
from mlc_ext.divergence import spearman

SIZES = ("small", "medium", "large")


@pytest.fixture(scope="module")
def program():
    return benchmark_modules("label_analysis")[0]


@pytest.fixture(scope="module", params=["fcos_minus_r50_mlc", "rpn_r50_mlc"])
def run(request, tmp_path_factory):
    """A run of two steps, mutual labeling from the first one on; its images are made smaller."""
    folder = tmp_path_factory.mktemp("run")
    root = generate(folder / "images", num_train=4, num_val=5, image_size=200)
    settings = {"data__data": str(root), "data__short_side": 128, "data__long_side": 128, "mlc__start_epoch": 0,
                "model__backbone": "resnet18"}  # fmt: skip
    Trainer(config_of(request.param, folder / "run", epochs=2, **settings), progress=False).run(2)
    return folder / "run"


@pytest.fixture(scope="module")
def analysis(program, run):
    return program.analyze(run, None, None)


@pytest.fixture(scope="module")
def batch(run):
    """-> model, what it labels, number of priors of each level, raw predictions, targets, boxes in original pixels."""
    loaded = load_for_evaluation(run, None, "cpu")
    model, dataset = loaded.model.eval(), loaded.dataset
    ((images, targets),) = build_loader(dataset, 8, shuffle=False)
    with torch.no_grad():
        outputs, feature_sizes, image_sizes = model.head_outputs(images)
        prepared = prepare_targets(targets, len(images), torch.device("cpu"), model.num_classes)
        labeled = model.label(outputs, feature_sizes, prepared)
        per_level = model.boxes(outputs, feature_sizes)[1]
        raw = model.detect(images, with_predictions=True)[1]
    assert model.mutual
    original = [dataset.target(k)["boxes"] for k in range(len(images))]
    return model, labeled, per_level, raw, prepared, original


def size_of(box):
    area = (box[2] - box[0]) * (box[3] - box[1])
    return SIZES[(area >= 32**2) + (area >= 96**2)]


def test_priors_are_those_of_a_count_one_by_one(program, analysis, batch):
    model, labeled, per_level, _, _, original = batch
    task, gts = labeled.task, labeled.assignment.candidate_gt.tolist()
    boxes = [box for part in original for box in part.tolist()]
    ends = [0]
    for count in per_level:
        ends.append(ends[-1] + count)
    expected = Counter()
    for i, gt in enumerate(gts):
        place = i % ends[-1]
        level = next(k for k, (first, end) in enumerate(pairwise(ends)) if first <= place < end)
        baseline = bool(task.baseline_positive[i])
        marks = {"cls": bool(task.cls_labels[i] > 0), "loc": bool(task.loc_weights[i] > 0)}
        if baseline:
            expected[level, size_of(boxes[gt]), "baseline"] += 1
        for name, positive in marks.items():
            if positive:
                expected[level, size_of(boxes[gt]), f"{name} {'kept' if baseline else 'new'}"] += 1
    found = {
        (level, size, name): int(analysis.priors[level, number, column])
        for level in range(len(per_level))
        for number, size in enumerate(SIZES)
        for column, name in enumerate(program.COUNTS)
    }
    assert {key: count for key, count in found.items() if count} == dict(expected)
    assert 0 < sum(n for (*_, name), n in expected.items() if name == "cls kept") < analysis.priors[..., 0].sum()
    assert len({size for _, size, _ in expected}) > 1
    assert analysis.levels == [f"P{int(math.log2(stride))}" for stride in model.strides]


def correlations(raw, target, original, per_level, class_agnostic):
    """(kind, size, rho) of an image's objects, where rho is defined."""
    levels = [level for level, count in enumerate(per_level) for _ in range(count)]
    labels = [1] * len(target["labels"]) if class_agnostic else target["labels"].tolist()
    predicted, boxes = raw["boxes"].tolist(), target["boxes"].tolist()
    for k, label in enumerate(labels):
        same = [g for g, other in enumerate(labels) if other == label]
        mine = []
        for i, box in enumerate(predicted):
            ious = [iou_of(box, boxes[g]) for g in same]
            if max(ious) > 0 and same[ious.index(max(ious))] == k:
                mine.append((raw["scores"][i, label - 1].item(), max(ious), levels[i]))
        mine = sorted(mine, key=lambda pair: -pair[0])[:50]
        size = size_of(original[k].tolist())
        of_levels = [[pair for pair in mine if pair[2] == level] for level in range(len(per_level))]
        of_levels = [part for part in of_levels if len(part) >= 3]
        within = [rho for part in of_levels if not math.isnan(rho := rank_correlation(part))]
        yield "all", size, rank_correlation(mine)
        yield "within levels", size, sum(within) / len(within) if within else math.nan
        means = [[sum(column) / len(part) for column in zip(*part, strict=True)] for part in of_levels]
        yield "between levels", size, rank_correlation(means) if len(means) > 1 else math.nan


def test_places_are_those_of_the_objects_one_by_one(program, analysis, batch):
    model, labeled, per_level, raw, targets, original = batch
    if model.class_agnostic:  # RPN has no points
        assert not any(analysis.places.values()) and program.place_table([analysis]) == []
        return
    count, expected, first = sum(per_level), {name: [] for name in program.PLACES}, 0
    for n, (prediction, target) in enumerate(zip(raw, targets, strict=True)):
        for k, (box, label) in enumerate(zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True)):
            rows = []
            for i in range(count):
                place = n * count + i
                if labeled.task.baseline_positive[place] and labeled.assignment.candidate_gt[place] == first + k:
                    x, y = labeled.priors[i].tolist()
                    sides = [sorted((x - box[0], box[2] - x)), sorted((y - box[1], box[3] - y))]
                    central = math.sqrt(sides[0][0] / sides[0][1] * sides[1][0] / sides[1][1])
                    iou = iou_of(prediction["boxes"][i].tolist(), box)
                    rows.append((central, prediction["scores"][i, label - 1].item(), iou))
            if len(rows) < 5:
                continue
            best, scored, central = (max(rows, key=lambda row, at=at: row[at]) for at in (2, 1, 0))
            values = (
                rank_correlation([(row[0], row[2]) for row in rows]),
                rank_correlation([(row[1], row[2]) for row in rows]),
                best[0],
                central[0],
                scored[2],
                central[2],
                best[2],
                sum(row[2] for row in rows) / len(rows),
            )
            for name, value in zip(program.PLACES, values, strict=True):
                expected[name].append(value)
        first += len(target["boxes"])
    assert len(expected["best IoU"]) >= 3
    for name, values in expected.items():
        assert analysis.places[name] == pytest.approx(values, abs=1e-5, nan_ok=True), name
    assert program.place_table([analysis])[-1] == f"| mean IoU | {sum(values) / len(values):.3f} |"


def rank_correlation(pairs):
    return spearman([p[0] for p in pairs], [p[1] for p in pairs])


def test_correlations_are_those_of_the_objects_one_by_one(program, analysis, batch):
    model, _, per_level, raw, targets, original = batch
    expected = {(kind, size): [] for kind in program.KINDS for size in SIZES}
    divergence = Divergence()
    for prediction, target, boxes in zip(raw, targets, original, strict=True):
        for kind, size, rho in correlations(prediction, target, boxes, per_level, model.class_agnostic):
            if not math.isnan(rho):
                expected[kind, size].append(rho)
        labels = torch.ones_like(target["labels"]) if model.class_agnostic else target["labels"]
        divergence.update(prediction, {"boxes": target["boxes"], "labels": labels})
    for kind in program.KINDS:
        for size, found in zip(SIZES, analysis.rhos[kind], strict=True):
            assert sorted(found) == pytest.approx(sorted(expected[kind, size]), abs=1e-6), (kind, size)
    assert expected["all", "medium"] and expected["within levels", "medium"] and expected["between levels", "medium"]
    rhos = [rho for part in analysis.rhos["all"] for rho in part]
    assert divergence.compute()["per_gt"] == pytest.approx(sum(rhos) / len(rhos))


def test_two_equal_objects_share_no_predictions(program):
    """As in Divergence, a prediction belongs to the first of them; the other has none and no rho."""
    model, counts = Untrained(), program.Counts([8])
    counts.update(model, [torch.zeros(3, 8, 8)], [
        {"boxes": torch.tensor([[0.0, 0, 8, 8]] * 2), "labels": torch.tensor([1, 1]), "orig_size": (8, 8)}
    ])  # fmt: skip
    assert counts.rhos["all"][0] == [1.0]


class Untrained:
    """Four priors that no object has; predicted IoUs rise with the scores."""

    num_classes, class_agnostic = 1, False

    def head_outputs(self, images):
        return {}, [], []

    def boxes(self, outputs, feature_sizes):
        return None, [4]

    def label(self, outputs, feature_sizes, targets):
        none = torch.zeros(4, dtype=torch.bool)
        task = type("Task", (), {"baseline_positive": none, "cls_labels": none.long(), "loc_positive": none})
        assignment = type("Assignment", (), {"candidate_gt": torch.full((4,), -1)})
        return type("Labeled", (), {"task": task, "assignment": assignment, "priors": torch.zeros(4, 2)})

    def raw_predictions(self, outputs, feature_sizes, image_sizes):
        boxes = torch.tensor([[0.0, 0, 8, n] for n in (2, 4, 6, 8)])
        return [{"boxes": boxes, "scores": torch.tensor([[0.1], [0.2], [0.3], [0.4]])}]


def test_the_program_writes_both_tables(program, run, analysis, tmp_path, monkeypatch, capsys):
    file = tmp_path / "tables.md"
    monkeypatch.setattr(
        sys, "argv", ["label_analysis.py", str(run), str(run), "--images", "5", "--markdown", str(file)]
    )
    program.main()
    text = file.read_text()
    assert capsys.readouterr().out == text
    total, kept = analysis.priors[..., 0].sum(), analysis.priors[..., 1].sum()
    share = f"{100 * kept / total:.1f} ± 0.0"
    assert next(line for line in text.splitlines() if line.startswith("| all |")).startswith(
        f"| all | 100.0 ± 0.0 | {share}"
    )
    assert text.count("| P") == len(analysis.levels)
