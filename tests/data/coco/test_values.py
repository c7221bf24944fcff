"""Values of odd types in a JSON: ids, flags and names; numbers of images that are not 8-bit."""

from __future__ import annotations

import copy
import io
import logging

import numpy as np
import pytest
import torch
from coco_files import box, entry, write_coco
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.coco.values import as_flag, as_id
from mlc_ext.detectors.data.images.decode import decode_image
from mlc_ext.detectors.data.loading.loader import build_loader
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


@pytest.mark.parametrize("flag", [0, 1, True, False, 1.0, 0.0, 2, "1", " TRUE "])
def test_flags_are_read_as_pycocotools_reads_them(tmp_path, flag):
    """A crowd is ignored: without another object there is no AP (-1)."""
    dataset = CocoDetection(*write_coco(tmp_path, [box(1, iscrowd=flag)]))
    assert dataset[0][1]["iscrowd"].tolist() == [bool(as_flag(flag))]
    evaluator = CocoEvaluator(dataset)
    boxes = torch.tensor([[5.0, 6, 15, 14]])
    evaluator.update([1], [{"boxes": boxes, "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}])
    expected = precision_by_pycocotools(box(1, iscrowd=int(as_flag(flag))), (5, 6, 10, 8))
    ap = evaluator.summarize()["AP"]
    assert expected == -1 and np.isnan(ap) if as_flag(flag) else ap == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("flag", ["maybe", "2", [], {}, [1], 0.5, float("nan"), float("inf"), 10**30])
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


def float_image(values, kind="TIFF") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.array(values, dtype=np.float32)).save(buffer, kind)
    return buffer.getvalue()


def test_float_images_are_read_as_torchvision_reads_them():
    """The values are those of torchvision.transforms.v2.functional.to_dtype(uint8, scale=True)."""
    image = decode_image(float_image([[0, 0.25, 0.5, 0.9, 1.0]]))
    assert image.tolist() == [[[0, 63, 127, 230, 255]]] * 3


@pytest.mark.parametrize("other", [0.1, 1.0, 1.5, 255.0, -3.0, float("inf"), float("-inf"), float("nan")])
def test_a_float_pixel_does_not_depend_on_the_others(other):
    noted = []
    pixels = decode_image(float_image([[0.5, other, 0.9]]), note=noted.append)[0].tolist()[0]
    assert pixels[::2] == [127, 230]
    assert pixels[1] == (255 if 1 <= other < 1e9 else 25 if other == 0.1 else 0)
    assert bool(noted) == (not 0 <= other <= 1)


def test_clipped_images_are_noted_once(tmp_path, caplog):
    paths = write_coco(tmp_path, [box(1)], images=[entry(1), entry(2)], files=False)
    for k in (1, 2):
        (tmp_path / f"{k}.png").write_bytes(float_image(np.full((30, 40), 200 + k)))
    for workers in (0, 1):
        dataset = CocoDetection(*paths)
        caplog.clear()
        with caplog.at_level(logging.INFO, "mlc_ext.detectors"):
            for _ in range(2):
                for _, targets in build_loader(dataset, 2, shuffle=False, num_workers=workers):
                    assert all("clipped" not in target for target in targets)
        assert "2 images with values that were clipped" in dataset.summary()
        reported = [(record.levelname, record.getMessage().partition(":")[0]) for record in caplog.records]
        what = "has values of {0} to {0}, of a float32 image read as 0..1"
        assert reported == [("WARNING", f"{tmp_path}/1.png {what.format(201)}"),
                            ("INFO", f"{tmp_path}/2.png {what.format(202)}")]  # fmt: skip


def test_32_bit_integers_beyond_16_bits_are_noted():
    buffer, noted = io.BytesIO(), []
    Image.fromarray(np.array([[256, 65535, 70000]], dtype=np.int32)).save(buffer, "TIFF")
    assert decode_image(buffer.getvalue(), note=noted.append)[0].tolist() == [[1, 255, 255]] and "70000" in noted[0]
