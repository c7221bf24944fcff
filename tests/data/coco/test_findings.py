"""Likely faults of a data set are reported on the terminal before a run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from coco_files import box, entry, noise, write_coco

from mlc_ext.detectors.data.build import require_usable
from mlc_ext.detectors.data.coco.boxes import likely_form
from mlc_ext.detectors.data.coco.dataset import CocoDetection


def random_boxes(count=200, seed=0):
    """xywh boxes well within images of many sizes."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(100, 900, (count, 2))  # height, width
    limit = sizes[:, ::-1]
    first, second = rng.uniform(0, 1, (2, count, 2)) * limit
    corner = np.minimum(first, second)
    return np.concatenate([corner, np.abs(first - second) + 1e-3], 1), sizes


def as_xyxy(boxes, sizes):
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def as_centers(boxes, sizes):
    return np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], 1)


def as_fractions(boxes, sizes):
    return boxes / np.tile(sizes[:, ::-1], 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (as_xyxy, ", 100% fit as x1, y1, x2, y2"),
        (as_centers, ", 100% fit as center x"),
        (as_fractions, "within 0..1"),
        (lambda boxes, sizes: as_fractions(as_xyxy(boxes, sizes), sizes), "within 0..1"),
        (lambda boxes, sizes: as_fractions(boxes, sizes) * 50, "percentages"),
        (lambda boxes, sizes: boxes / 2, "images of another size than the file gives?"),
        (lambda boxes, sizes: boxes * 2.5, "pixels of the image's size in the file"),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_the_likely_form_of_boxes_is_named(change, message, seed):
    boxes, sizes = random_boxes(seed=seed)
    assert likely_form(boxes, sizes) is None
    assert message in likely_form(change(boxes, sizes), sizes)


def test_the_share_of_boxes_that_fit_is_given():
    boxes, sizes = random_boxes()
    boxes = as_xyxy(boxes, sizes)
    boxes[:9, 2:] += 1000
    assert ", 95% fit as x1, y1, x2, y2" in likely_form(boxes, sizes)
    boxes[1:9, 2:] -= 1000
    assert ", 99% fit as x1, y1, x2, y2" in likely_form(boxes, sizes)  # 199 of 200


@pytest.mark.parametrize("seed", range(5))
def test_ordinary_boxes_are_not_suspected(seed):
    boxes, sizes = random_boxes(seed=seed)
    rng = np.random.default_rng(seed)
    whole = np.concatenate([np.zeros((200, 2)), sizes[:, ::-1]], 1)  # one object that fills its image
    large = as_xyxy(whole * [1, 1, 0.1, 0.1], sizes) * [1, 1, 8, 8]
    small = boxes * [1, 1, 0, 0] + [0, 0, 0.5, 0.5]  # points
    ragged = boxes + rng.uniform(-0.9, 0.9, boxes.shape)
    for usual in (whole, large, small, ragged):
        assert likely_form(usual, sizes) is None
    assert likely_form(np.zeros((0, 4)), np.zeros((0, 2))) is None
    assert likely_form(np.array([[0, 0, 1, 1.0]]), np.array([[1, 1]])) is None  # an image of one pixel


def test_lost_annotations_are_warned_of_with_reasons(tmp_path):
    rows = [box(1, id=k) for k in range(17)] + [box(2, category_id="3", id=17)]
    dataset = CocoDetection(*write_coco(tmp_path, rows))
    assert dataset.findings.dropped["annotations of unknown categories"] == 1 and dataset.warnings() == []  # 5.6 %
    dataset = CocoDetection(*write_coco(tmp_path, [*rows, box(9, id=18), box(2, (1, 2, 0, 4), id=19)]))
    assert dataset.warnings() == [
        f"{tmp_path}/instances.json: 3 of 20 annotations are left out: 1 boxes without area (annotations[19] has bbox "
        "[1, 2, 0, 4]), 1 annotations of unknown images (annotations[18] has image_id 9), 1 annotations of unknown "
        "categories (annotations[17] has category_id '3')"
    ]


def test_lost_images_are_warned_of(tmp_path):
    images = [entry(k) for k in (1, 2, 3)]
    paths = write_coco(tmp_path, [box(1)], images=images)
    paths[1].write_text(json.dumps(json.loads(paths[1].read_text()) | {"images": [*images, {"id": 4}]}))
    assert (
        "1 of 4 images are left out: 1 malformed images (images[3] has no file_name"
        in CocoDetection(*paths).warnings()[0]
    )


@pytest.mark.parametrize("options", [{"limit": 10}, {"keep_empty": False}])
@pytest.mark.parametrize(("lost", "warnings"), [(5, 0), (30, 1)])
def test_a_file_s_losses_are_compared_with_the_file(tmp_path, options, lost, warnings):
    """Not with the images that are in use: the first ten, or the twenty with objects."""
    rows = [box(k, id=k) for k in range(100, 120)]
    paths = write_coco(tmp_path, rows, images=[entry(k) for k in range(1, 201)], files=False)
    for k in range(1, 201 - lost):
        noise().save(tmp_path / f"{k}.png")
    found = [line for line in CocoDetection(*paths, **options).warnings() if "images are left out" in line]
    assert len(found) == warnings and all(f"{lost} of 200 images are left out" in line for line in found)


def test_broken_images_are_compared_with_those_in_use(tmp_path):
    paths = write_coco(tmp_path, [box(1)], images=[entry(k) for k in range(1, 51)])
    for k in (2, 3):
        (tmp_path / f"{k}.png").write_bytes(b"")
    for limit, warned in ((10, True), (50, False)):
        dataset = CocoDetection(*paths, limit=limit)
        dataset.verify()
        assert any("2 of 10 images are left out: 2 broken images" in line for line in dataset.warnings()) == warned


def spoil(path, **change) -> None:
    content = json.loads(path.read_text())
    content["annotations"] = [row | change for row in content["annotations"]]
    path.write_text(json.dumps(content))


def test_both_summaries_and_the_warnings_are_on_the_terminal(program, tmp_path):
    path = tmp_path / "data" / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["category_id"] = "3"
    path.write_text(json.dumps(content))
    spoil(tmp_path / "data" / "annotations" / "instances_train.json", bbox=[0.1, 0.1, 0.5, 0.5])
    code, out, error = program()
    assert code == 0
    assert "instances_train.json: 3 images, 2 boxes" in out and "instances_val.json: 3 images, 1 boxes" in out
    assert "instances_val.json: 1 of 2 annotations are left out: 1 annotations of unknown categories (annot" in error
    assert "instances_train.json: the boxes are within 0..1" in error
    log = (tmp_path / "run" / "log.txt").read_text()
    assert all(line.removeprefix("warning: ") in log for line in error.splitlines())


@pytest.mark.parametrize("change", [{"category_id": "3"}, {"category_id": 3.5}, {"image_id": "1"}, {"bbox": None}])
def test_a_validation_set_without_a_usable_object_stops(program, tmp_path, change):
    spoil(tmp_path / "data" / "annotations" / "instances_val.json", **change)
    code, _, error = program()
    assert code == 2 and error.count("\n") == 1
    assert "no annotation can be used: " in error and f"annotations[0] has {next(iter(change))}" in error
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_validation_set_without_annotations_is_warned_of(program, tmp_path):
    path = tmp_path / "data" / "annotations" / "instances_val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    code, _, error = program()
    assert code == 0 and "instances_val.json: no object is left to learn or to evaluate on" in error


def test_sets_of_crowds_alone_are_usable(tmp_path):
    dataset = CocoDetection(*write_coco(tmp_path, [box(1, iscrowd=1)]))
    require_usable(dataset)
    assert "no object is left" in dataset.warnings()[0]
