"""The details of an evaluation: its classes are pycocotools' own, its JSON is complete."""

import json
import math

import numpy as np
import pytest
from random_detections import coco, evaluated, random_case, results_of, truth_of

from mlc_ext.detectors.evaluation.explanation import MOST_CLASSES, as_text, explain, most_objects
from mlc_ext.detectors.runs.files import plain


@pytest.mark.parametrize("seed", range(4))
def test_classes_are_pycocotools_of_one_class(seed):
    truth, results = random_case(seed, num_images=10)
    evaluator = evaluated(truth, results)
    found = explain(evaluator)
    for each in found.classes:
        own = [gt for gt in truth["annotations"] if gt["category_id"] == each.category_id]
        part = {**truth, "categories": [{"id": each.category_id, "name": each.name}], "annotations": own}
        alone = coco(part, [row for row in results if row["category_id"] == each.category_id])
        precision, recall = alone.eval["precision"][:, :, 0, 0, 2], alone.eval["recall"][:, 0, 0, 2]
        assert [each.AP, each.AP50, each.AP75, each.AR] == pytest.approx(
            [precision.mean(), precision[0].mean(), precision[5].mean(), recall.mean()]
        )
        assert each.objects == sum(not gt["iscrowd"] for gt in part["annotations"])
    metrics = evaluator.summarize()
    assert np.mean([each.AP for each in found.classes]) == pytest.approx(metrics["AP"])
    assert found.errors.ap50 == pytest.approx(metrics["AP50"])


def test_the_faster_evaluator_gives_the_same():
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed (pip install mlc-ext[faster])")
    case = random_case(2, num_images=10)
    slow, fast = (explain(evaluated(*case, backend)).to_dict() for backend in ("pycocotools", "faster_coco_eval"))
    for a, b in zip(slow.pop("classes"), fast.pop("classes"), strict=True):
        assert a == pytest.approx(b)
    assert fast == slow


def test_json_has_all_figures():
    truth, results = random_case(1)
    truth["categories"].append({"id": 9, "name": "without objects"})
    found = explain(evaluated(truth, results), score_threshold=0.25)
    content = json.loads(json.dumps(plain(found.to_dict()), allow_nan=False))
    assert [each["name"] for each in content["classes"]] == [f"class {k}" for k in (1, 2, 3)] + ["without objects"]
    assert content["classes"][3]["AP"] is None and content["classes"][3]["objects"] == 0
    assert content["confusion"]["names"][-1] == "background" and content["confusion"]["score_threshold"] == 0.25
    curves = content["precision_recall"]
    assert len(curves["recalls"]) == 101 and sorted(curves["precision"]) == ["0.5", "0.75"]
    assert np.mean(curves["precision"]["0.5"][0]) == pytest.approx(content["classes"][0]["AP50"], abs=1e-5)
    assert curves["precision"]["0.5"][3] == [None] * 101


def test_text_has_both_thresholds_and_every_class():
    found = explain(evaluated(*random_case(1)), score_threshold=0.25)
    text = as_text(found)
    lines = text.splitlines()
    row = next(line for line in lines if line.startswith("class 2")).split()
    assert row[2] == str(found.classes[1].objects) and row[3] == f"{100 * found.classes[1].AP:.1f}"
    assert "score > 0.25, IoU >= 0.5" in text
    row = next(line for line in lines if line.startswith("localization")).split()
    share = found.errors.kinds["localization"]
    assert row[1:3] == [str(share.count), f"{100 * share.gain:.1f}"]
    matrix = [line.split()[-4:] for line in lines[-4:]]
    assert matrix == [list(map(str, row)) for row in found.confusion.matrix]


def test_classes_of_the_same_name_are_distinct():
    truth, results = random_case(1)
    before = explain(evaluated(truth, results))
    truth["categories"][2]["name"] = "class 1"
    found = explain(evaluated(truth, results))
    names = [each.name for each in found.classes]
    assert names == found.confusion.names == ["class 1 (id 1)", "class 2", "class 1 (id 3)"]
    assert [each.AP for each in found.classes] == [each.AP for each in before.classes]


def test_many_classes():
    objects = [(1, k + 1, [10, 10, 20, 20]) for k in range(120)] + [(2, 7, [10, 10, 20, 20])]
    truth = truth_of(objects, num_classes=121)
    found = explain(evaluated(truth, results_of([(2, 8, [10, 10, 20, 20], 0.9)])))
    assert len(most_objects(found.classes)) == MOST_CLASSES and found.classes[6] in most_objects(found.classes)
    text = as_text(found)
    assert "21 classes of fewer objects are in the JSON alone" in text
    assert "class 7 as class 8: 1 (50.0%)" in text


@pytest.mark.parametrize("num_classes", [3, 11])
def test_names_of_any_length_and_with_control_characters(num_classes):
    truth = truth_of([(1, 1, [10, 10, 20, 20])], num_classes=num_classes)
    truth["categories"][0]["name"] = "very long " * 20
    truth["categories"][1]["name"] = "two\nlines \x1b[31m"
    text = as_text(explain(evaluated(truth, results_of([(1, 2, [10, 10, 20, 20], 0.9)]))))
    table = text.split("\n\n")[0].splitlines()
    assert len(table) == num_classes + 1 and len(set(map(len, table))) == 1
    assert max(map(len, text.splitlines())) < 160 and "two?lines ?[31m" in text and "\x1b" not in text


def test_nothing_at_all():
    found = explain(evaluated(truth_of([]), []))
    assert all(math.isnan(each.AP) for each in found.classes) and "  -  " in as_text(found)
