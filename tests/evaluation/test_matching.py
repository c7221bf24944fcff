"""Matches of detections and objects: those of pycocotools, with equal scores, crowd, and more detections than count."""

import numpy as np
import pytest
from random_detections import box_iou, coco, random_case

from mlc_ext.detectors.evaluation.matching import counted_objects, match


def pycocotools_matches(truth, results, iou, most):
    """{number of a detection that is not ignored: id of its annotation, 0 for none}."""
    whole = {"areaRng": [[0, 1e10]], "areaRngLbl": ["all"]}
    evaluation = coco(truth, results, iouThrs=np.array([iou]), maxDets=[most], **whole)
    return {
        number - 1: int(gt_id)
        for part in evaluation.evalImgs
        if part is not None
        for number, gt_id, ignored in zip(part["dtIds"], part["dtMatches"][0], part["dtIgnore"][0], strict=True)
        if not ignored
    }


@pytest.mark.parametrize("seed", range(24))
def test_matches_are_those_of_pycocotools(seed):
    truth, results = random_case(seed, num_classes=1 + seed % 3, crowd=(0, 0.1, 0.4)[seed % 3])
    rng = np.random.default_rng(seed)
    rng.shuffle(results)
    if seed % 2:  # equal scores, and equal IoUs
        for row in results:
            row["score"] = round(row["score"], 1)
        for entry in (*truth["annotations"], *results):
            entry["bbox"] = [float(8 * max(v // 8, k > 1)) for k, v in enumerate(entry["bbox"])]
    objects = counted_objects(truth)
    for iou, most in ((0.5, 100), (0.75, 3)):
        found = match(truth, results, iou=iou, most=most)
        ids = [objects[k]["id"] if k >= 0 else 0 for k in found.objects]
        assert dict(zip(found.rows.tolist(), ids, strict=True)) == pycocotools_matches(truth, results, iou, most)
        for row, target, own in zip(found.rows, found.objects, found.ious, strict=True):
            expected = box_iou(results[row]["bbox"], objects[target]["bbox"]) if target >= 0 else 0
            assert own == pytest.approx(expected)
