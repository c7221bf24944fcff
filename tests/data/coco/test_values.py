"""Values of unusual types in a JSON: ids and flags."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from coco_files import box, entry, write_coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.coco.values import as_id
from mlc_ext.detectors.evaluation.coco_metrics import CocoEvaluator


def precision_by_pycocotools(annotation: dict, score_box) -> float:
    """AP of one detection on one annotation, as the file has it."""
    truth = COCO()
    truth.dataset = {
        "info": {}, "images": [entry(1)], "annotations": [copy.deepcopy(annotation)], "categories": [{"id": 3}]
    }  # fmt: skip
    truth.createIndex()
    found = truth.loadRes([{"image_id": 1, "category_id": 3, "bbox": list(score_box), "score": 0.9}])
    evaluation = COCOeval(truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


@pytest.mark.parametrize(
    ("flag", "expected"),
    [(0, False), (1, True), (True, True), (False, False), (1.0, True), (0.0, False), (2, True),
     (None, False), ("1", True), (" TRUE ", True), ("yes", True), ("0", False), ("False", False), ("no", False),
     ("", False)],
)  # fmt: skip
def test_flags_are_read_as_pycocotools_reads_them(tmp_path, flag, expected):
    """A crowd is ignored: without another object there is no AP (-1)."""
    dataset = CocoDetection(*write_coco(tmp_path, [box(1, iscrowd=flag)]))
    assert dataset[0][1]["iscrowd"].tolist() == [expected]
    evaluator = CocoEvaluator(dataset)
    boxes = torch.tensor([[5.0, 6, 15, 14]])
    evaluator.update([1], [{"boxes": boxes, "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}])
    as_integer = flag if isinstance(flag, (int, float)) else int(expected)  # pycocotools takes numbers only
    theirs, ap = precision_by_pycocotools(box(1, iscrowd=as_integer), (5, 6, 10, 8)), evaluator.summarize()["AP"]
    assert theirs == -1 and np.isnan(ap) if expected else ap == pytest.approx(theirs, abs=1e-12) and theirs > 0.9


@pytest.mark.parametrize("flag", ["maybe", "2", "1.0", [], {}, [1], 0.5, float("nan"), float("inf"), 10**30])
def test_flags_that_are_none_are_counted(tmp_path, flag):
    dataset = CocoDetection(*write_coco(tmp_path, [box(1, id=1, iscrowd=flag), box(2, id=2)]))
    assert dict(dataset.findings.dropped) == {"annotations with a malformed iscrowd": 1} and dataset.num_objects == 1
    assert "annotations[0] has iscrowd" in dataset.findings.examples["annotations with a malformed iscrowd"]


@pytest.mark.parametrize(("value", "expected"), [(3, 3), (3.0, 3), (-0.0, 0), (2**53 + 0.0, 2**53), (2**63 - 1,) * 2,
                                                 (3.5, None), ("3", None), (True, None), (2.0**63, None),
                                                 (float("nan"), None), (None, None), ([3], None)])  # fmt: skip
def test_ids(value, expected):
    assert as_id(value) == expected and type(as_id(value)) is type(expected)


def test_ids_as_floats_are_integers_as_in_pycocotools(tmp_path):
    annotations = [box(1.0, id=1.0), box(2, id=2, category_id=90.0), box(2.0, (1, 2, 3, 4), 3.0, id=3)]
    images = [entry(1, "1.png") | {"id": 1.0}, entry(2), entry(3)]
    paths = write_coco(tmp_path, annotations, images=[entry(k) for k in (1, 2, 3)])
    content = CocoDetection(*write_coco(tmp_path, annotations, images=images, categories=[{"id": 3.0, "name": "a"},
                                                                                         {"id": 90, "name": "b"}],
                                        files=False))  # fmt: skip
    reference = COCO(str(paths[1]))
    assert not content.findings.dropped and content.image_ids == sorted(reference.getImgIds()) == [1, 2, 3]
    for index, image_id in enumerate(content.image_ids):
        theirs = reference.loadAnns(reference.getAnnIds(imgIds=[image_id]))
        labels = [content.classes.category_to_label[a["category_id"]] for a in theirs]
        assert content[index][1]["labels"].tolist() == labels
