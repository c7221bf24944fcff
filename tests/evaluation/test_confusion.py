"""The confusion matrix: hand-made cases, COCO's matches on its diagonal, and a plain loop."""

import numpy as np
import pytest
from random_detections import box_iou, coco, random_case, results_of, truth_of

from mlc_ext.detectors.evaluation.confusion import confusion

OBJECT = [10, 10, 40, 40]


def cells(found):
    names = [*found.names, "background"]
    return {(names[i], names[j]): int(n) for (i, j), n in np.ndenumerate(found.matrix) if n}


def test_every_kind_of_cell():
    truth = truth_of([(1, 1, OBJECT), (1, 2, [60, 60, 30, 30]), (2, 3, OBJECT)])
    results = results_of([(1, 1, OBJECT, 0.9), (1, 3, [60, 60, 30, 28], 0.8), (1, 2, [0, 80, 10, 10], 0.7)])
    found = confusion(truth, results)
    assert cells(found) == {
        ("class 1", "class 1"): 1, ("class 2", "class 3"): 1, ("background", "class 2"): 1,
        ("class 3", "background"): 1,
    }  # fmt: skip
    (largest,) = found.largest(5)
    assert largest == ("class 2", "class 3", 1, 1.0)


def test_the_own_class_comes_before_a_larger_iou():
    truth = truth_of([(1, 1, OBJECT)])
    found = confusion(truth, results_of([(1, 2, OBJECT, 0.9), (1, 1, [10, 10, 40, 30], 0.5)]))
    assert cells(found) == {("class 1", "class 1"): 1, ("background", "class 2"): 1}


def test_of_other_classes_the_largest_iou_is_taken():
    truth = truth_of([(1, 1, OBJECT)])
    found = confusion(truth, results_of([(1, 2, [10, 10, 40, 30], 0.9), (1, 3, OBJECT, 0.5)]))
    assert cells(found) == {("class 1", "class 3"): 1, ("background", "class 2"): 1}


@pytest.mark.parametrize(("score", "counts"), [(0.3, False), (0.30001, True)])
def test_the_score_threshold_is_exclusive(score, counts):
    found = confusion(truth_of([(1, 1, OBJECT)]), results_of([(1, 1, OBJECT, score)]))
    assert found.score_threshold == 0.3 and bool(found.matrix[0, 0]) == counts


@pytest.mark.parametrize(("height", "counts"), [(20, True), (19, False)])
def test_the_iou_threshold_is_inclusive(height, counts):
    found = confusion(truth_of([(1, 1, OBJECT)]), results_of([(1, 2, [10, 10, 40, height], 0.9)]))
    assert bool(found.matrix[0, 1]) == counts


def test_crowd_does_not_count():
    truth = truth_of([(1, 1, [0, 0, 90, 90], 1)])
    found = confusion(truth, results_of([(1, 1, OBJECT, 0.9), (1, 2, OBJECT, 0.8)]))
    assert cells(found) == {("background", "class 2"): 1}


def brute_force(truth, results, threshold):
    number = {entry["id"]: k for k, entry in enumerate(truth["categories"])}
    matrix = np.zeros((len(number) + 1, len(number) + 1), dtype=int)
    for image in truth["images"]:
        gts = [gt for gt in truth["annotations"] if gt["image_id"] == image["id"]]
        rows = sorted((row for row in results if row["image_id"] == image["id"] and row["score"] > threshold),
                      key=lambda row: -row["score"])  # fmt: skip
        left = list(rows)
        for row in rows:
            options = [gt for gt in gts if gt["category_id"] == row["category_id"]]
            best = max(options, key=lambda gt: box_iou(row["bbox"], gt["bbox"]), default=None)
            if best is not None and box_iou(row["bbox"], best["bbox"]) >= 0.5:
                matrix[number[row["category_id"]], number[row["category_id"]]] += 1
                gts.remove(best)
                left.remove(row)
        while pairs := [(box_iou(row["bbox"], gt["bbox"]), i, j) for i, row in enumerate(left)
                        for j, gt in enumerate(gts) if box_iou(row["bbox"], gt["bbox"]) >= 0.5]:  # fmt: skip
            _, i, j = max(pairs)
            matrix[number[gts.pop(j)["category_id"]], number[left.pop(i)["category_id"]]] += 1
        for row in left:
            matrix[-1, number[row["category_id"]]] += 1
        for gt in gts:
            matrix[number[gt["category_id"]], -1] += 1
    return matrix


@pytest.mark.parametrize("seed", range(15))
def test_equals_a_plain_loop_and_coco(seed):
    truth, results = random_case(seed, crowd=0)
    found = confusion(truth, results, score_threshold=0.2)
    assert found.matrix.tolist() == brute_force(truth, results, 0.2).tolist()
    kept = [row for row in results if row["score"] > 0.2]
    evaluation = coco(truth, kept)
    hits = sum(int((part["dtMatches"][0] > 0).sum()) for part in evaluation.evalImgs
               if part and part["aRng"] == evaluation.params.areaRng[0])  # fmt: skip
    assert np.trace(found.matrix) == hits
    assert found.matrix[:-1].sum() == len(truth["annotations"]) and found.matrix[:, :-1].sum() == len(kept)
    assert sum(each.count for each in found.largest(99)) == found.matrix[:-1, :-1].sum() - hits
