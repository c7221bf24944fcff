"""TIDE's kinds of errors: hand-made cases, and a plain loop over the paper's definition."""

import math

import numpy as np
import pytest
from random_detections import box_iou, coco, random_case, results_of, truth_of

from mlc_ext.detectors.evaluation.error_shares import KINDS, average_precision, error_shares

OBJECT = [10, 10, 40, 40]


def shares(objects, detections, **options):
    found = error_shares(truth_of(objects, **options), results_of(detections))
    return found, {name: share.count for name, share in found.kinds.items() if share.count}


@pytest.mark.parametrize(
    ("detection", "kind"),
    [
        ((1, 1, [10, 10, 40, 16], 0.9), "localization"),  # IoU .4
        ((1, 1, [10, 10, 40, 4], 0.9), "localization"),  # IoU .1
        ((1, 2, [10, 10, 40, 36], 0.9), "classification"),  # IoU .9
        ((1, 2, [10, 10, 40, 20], 0.9), "classification"),  # IoU .5
        ((1, 2, [10, 10, 40, 16], 0.9), "both"),
        ((1, 1, [10, 10, 40, 3], 0.9), "background"),  # IoU .075
        ((1, 1, [70, 70, 20, 20], 0.9), "background"),
        ((2, 1, [10, 10, 40, 40], 0.9), "background"),  # on the other image
    ],
)
def test_one_false_positive_and_an_object(detection, kind):
    found, counts = shares([(1, 1, OBJECT)], [detection])
    mends = kind in ("localization", "classification")
    assert counts == {kind: 1} | ({} if mends else {"missed": 1})
    assert found.ap50 == 0 and found.false_positives.count == found.false_negatives.count == 1
    assert found.kinds[kind].gain == (1 if mends else 0)


def test_a_duplicate():
    found, counts = shares([(1, 1, OBJECT), (2, 1, OBJECT)], [(1, 1, OBJECT, 0.9), (1, 1, [10, 10, 40, 30], 0.8),
                                                               (2, 1, OBJECT, 0.7)])  # fmt: skip
    assert counts == {"duplicate": 1}
    assert found.ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert found.kinds["duplicate"].gain == found.false_positives.gain == pytest.approx(1 - found.ap50)
    assert found.false_negatives.gain == 0


def test_a_missed_object_is_removed():
    found, counts = shares([(1, 1, OBJECT), (2, 1, OBJECT)], [(1, 1, OBJECT, 0.9)])
    assert counts == {"missed": 1} and found.ap50 == pytest.approx(51 / 101)
    assert found.kinds["missed"].gain == found.false_negatives.gain == pytest.approx(1 - 51 / 101)


def test_of_several_errors_on_an_object_the_best_is_mended():
    """The better one is of the kind localization: mending classification only removes the other."""
    detections = [(1, 1, [10, 10, 40, 16], 0.9), (1, 2, OBJECT, 0.8), (1, 1, [10, 10, 40, 15], 0.7)]
    found, counts = shares([(1, 1, OBJECT)], detections)
    assert counts == {"localization": 2, "classification": 1}
    assert found.kinds["localization"].gain == 1 and found.kinds["classification"].gain == 0


def test_crowd_is_no_error():
    found, counts = shares([(1, 1, OBJECT), (1, 1, [60, 60, 40, 40], 1)],
                           [(1, 1, OBJECT, 0.9), (1, 1, [70, 70, 20, 20], 0.95)])  # fmt: skip
    assert counts == {} and found.ap50 == pytest.approx(1) and found.false_positives.count == 0


def test_without_objects_and_without_detections():
    found, counts = shares([], [(1, 1, OBJECT, 0.5)])
    assert counts == {"background": 1} and math.isnan(found.ap50) and math.isnan(found.kinds["background"].gain)
    found, counts = shares([(1, 1, OBJECT)], [])
    assert counts == {"missed": 1} and found.ap50 == 0
    found, counts = shares([], [])
    assert counts == {} and math.isnan(found.ap50)


def test_a_hundred_detections_of_a_class_count():
    false = [(1, 1, [80, 80, 5, 5], 0.9)] * 100
    found, counts = shares([(1, 1, OBJECT)], [*false, (1, 1, OBJECT, 0.1)])
    assert counts == {"background": 100, "missed": 1} and found.ap50 == 0


def brute_force(truth, results):
    """(kind of each false positive and missed object, AP50 with each kind mended), by loops over dictionaries."""
    points, missed, errors, objects = {}, [], [], {}
    for image in truth["images"]:
        gts = [gt for gt in truth["annotations"] if gt["image_id"] == image["id"] and not gt["iscrowd"]]
        crowd = [gt for gt in truth["annotations"] if gt["image_id"] == image["id"] and gt["iscrowd"]]
        found = sorted((k for k, row in enumerate(results) if row["image_id"] == image["id"]),
                       key=lambda k: -results[k]["score"])  # fmt: skip
        taken, usable = set(), {}
        for gt in gts:
            objects[gt["category_id"]] = objects.get(gt["category_id"], 0) + 1
        false = []
        for k in found:
            row = results[k]
            options = [(box_iou(row["bbox"], gt["bbox"]), gt["id"]) for gt in gts
                       if gt["category_id"] == row["category_id"] and gt["id"] not in taken]  # fmt: skip
            if options and max(options)[0] >= 0.5:
                taken.add(max(options)[1])
                points[k] = (row["category_id"], row["score"], True)
                continue
            inside = [
                c for c in crowd if c["category_id"] == row["category_id"] and share(row["bbox"], c["bbox"]) >= 0.5
            ]
            if not inside:
                points[k] = (row["category_id"], row["score"], False)
                false.append(k)
        for k in false:
            row = results[k]
            same = max(((box_iou(row["bbox"], gt["bbox"]), -gt["id"]) for gt in gts
                        if gt["category_id"] == row["category_id"]), default=(0, 0))  # fmt: skip
            other = max(((box_iou(row["bbox"], gt["bbox"]), -gt["id"]) for gt in gts
                         if gt["category_id"] != row["category_id"]), default=(0, 0))  # fmt: skip
            if 0.1 <= same[0] < 0.5:
                kind, target = "localization", -same[1]  # of equal IoUs the first object
            elif other[0] >= 0.5:
                kind, target = "classification", -other[1]
            elif same[0] >= 0.5:
                kind, target = "duplicate", None
            elif max(same[0], other[0]) < 0.1:
                kind, target = "background", None
            else:
                kind, target = "both", None
            if target in taken:
                target = None
            elif target is not None:
                usable.setdefault(target, k)  # the first is the best
            errors.append((kind, k, target, usable))
        missed += [gt for gt in gts if gt["id"] not in taken and gt["id"] not in usable]
    categories = {gt["id"]: gt["category_id"] for gt in truth["annotations"]}
    gains = {}
    for name in KINDS:
        after, left = dict(points), dict(objects)
        for kind, k, target, usable in errors:
            if kind == name and target is not None and usable[target] == k:
                after[k] = (categories[target], points[k][1], True)
            elif kind == name:
                del after[k]
        if name == "missed":
            for gt in missed:
                left[gt["category_id"]] -= 1
        gains[name] = mean_ap(after, left)
    counts = [kind for kind, *_ in errors] + ["missed"] * len(missed)
    return {name: counts.count(name) for name in KINDS}, mean_ap(points, objects), gains


def share(a, b):
    iou = box_iou(a, b)
    return iou * (a[2] * a[3] + b[2] * b[3]) / (1 + iou) / (a[2] * a[3])


def mean_ap(points, objects):
    values = []
    for category, count in objects.items():
        own = sorted((point for point in points.values() if point[0] == category), key=lambda point: -point[1])
        if count == 0:
            values += [0] if own else []
            continue
        curve = [(sum(p[2] for p in own[: k + 1]) / count, sum(p[2] for p in own[: k + 1]) / (k + 1))
                 for k in range(len(own))]  # fmt: skip
        values.append(np.mean([max((precision for recall, precision in curve if recall >= level), default=0)
                               for level in np.linspace(0, 1, 101)]))  # fmt: skip
    return np.mean(values)


@pytest.mark.parametrize("seed", range(40))
def test_equals_a_plain_loop_and_coco(seed):
    truth, results = random_case(seed)
    if seed >= 20:  # equal scores, and equal IoUs
        for row in results:
            row["score"] = round(row["score"], 1)
        for entry in (*truth["annotations"], *results):
            entry["bbox"] = [float(8 * max(v // 8, k > 1)) for k, v in enumerate(entry["bbox"])]
    found = error_shares(truth, results)
    counts, ap50, mended = brute_force(truth, results)
    assert {name: each.count for name, each in found.kinds.items()} == counts
    assert found.ap50 == pytest.approx(ap50)
    gains = {name: each.gain for name, each in found.kinds.items()}
    assert gains == pytest.approx({name: max(value - ap50, 0) for name, value in mended.items()})
    precision = coco(truth, results).eval["precision"][0, :, :, 0, 2]
    assert found.ap50 == pytest.approx(precision[precision > -1].mean())


def test_every_kind_occurs_in_the_random_cases():
    found = [error_shares(*random_case(seed)).kinds for seed in range(20)]
    assert all(sum(kinds[name].count for kinds in found) > 10 for name in KINDS)
    assert all(max(kinds[name].gain for kinds in found) > 0 for name in KINDS)


def test_false_positives_and_negatives_together_are_all_that_is_wrong():
    for seed in range(5):
        found = error_shares(*random_case(seed))
        kinds = {name: share.count for name, share in found.kinds.items()}
        assert found.false_positives.count == sum(kinds.values()) - kinds["missed"]
        assert found.false_negatives.count >= kinds["missed"]


def test_average_precision_of_a_hand_case():
    assert average_precision(np.array([False, True, False]), 2) == pytest.approx(0.5 * 51 / 101)
    assert average_precision(np.zeros(0, dtype=bool), 2) == 0
