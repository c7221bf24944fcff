"""Broken and hostile COCO JSON: each has the outcome that docs/faults.md gives."""

from __future__ import annotations

import copy
import json
import logging
import math
import os

import pytest
import torch
from coco_files import box, entry, write_coco
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.errors import DataError, ImageDecodeError
from mlc_ext.detectors.evaluation.coco_metrics import CocoEvaluator


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_json_with_a_byte_order_mark(tmp_path, encoding):
    folder, path = write_coco(tmp_path, [box(1)], categories=[{"id": 3, "name": "café"}])
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False), encoding=encoding)
    assert CocoDetection(folder, path).category_names == ["café"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON: an empty file"),
        (b"   \n", "not JSON"),
        (b"\x1f\x8b\x08\0\0\0\0\0", r"not JSON: begins with b'\\x1f"),
        (b"PK\x03\x04", "not JSON: begins with b'PK"),
        (b"id,file_name\n1,a.png", "not JSON: begins with b'id,file"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "not JSON: begins with"),
        (b'[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]', "a list, not an object"),
        (b'{"a": 1}\n{"a": 2}\n', "not JSON: Extra data"),
        (b'{"type": "FeatureCollection", "features": []}', "no list images, annotations, categories"),
        (b'{"images": [{"id": 1}], "annotations": [], "categories": ["cat"]}', r"categories\[0\] has no id"),
        (b'{"images": [], "annotations": [], "categories": []}', "images is empty"),
        (b'{"images": {"1": {}}, "annotations": [], "categories": [{"id": 1}]}', "no list images"),
        (b'{"a": "\xff\xfe"}', "not JSON"),
        (b'{"a":' + b"[" * 100_000, "not JSON"),
        (b'{"images": [{"id": 1}], "info"', "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_json_that_is_not_coco_data(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        CocoDetection(tmp_path, tmp_path / "a.json")
    assert "a.json" in str(error.value) and len(str(error.value)) < 500


def test_a_huge_file_of_the_wrong_kind_is_refused_at_once(tmp_path):
    with open(tmp_path / "a.json", "wb") as file:
        file.write(b"\0\0\0\x20ftypmp42")
        file.truncate(2**40)  # sparse; reading it whole would end the process
    with pytest.raises(ValueError, match="not JSON: begins with b'ftypmp42"):
        CocoDetection(tmp_path, tmp_path / "a.json")


def test_a_pipe_is_no_annotation_file(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        CocoDetection(tmp_path, tmp_path / "a.json")


def test_nan_and_infinity_literals(tmp_path):
    """Python's JSON reads and writes them; each is handled like other faults of its field."""
    bad = float("nan")
    images = [entry(1), entry(2) | {"width": bad}, entry(3) | {"id": bad}, entry(4) | {"height": math.inf}]
    annotations = [box(1), box(1, (bad, 1, 2, 3)), box(1) | {"category_id": bad}, box(1) | {"image_id": math.inf},
                   box(1) | {"iscrowd": bad}, box(1) | {"area": -math.inf, "id": bad}]  # fmt: skip
    paths = write_coco(tmp_path, annotations, images=[entry(1)])
    paths[1].write_text(json.dumps(json.loads(paths[1].read_text()) | {"images": images}))
    dataset = CocoDetection(*paths)
    assert dict(dataset.findings.dropped) == {
        "malformed images": 3, "malformed boxes": 1, "annotations of unknown categories": 1,
        "annotations of unknown images": 1, "annotations with a malformed iscrowd": 1,
    }  # fmt: skip
    target = dataset[0][1]
    assert target["area"].tolist() == [80, 80] and not target["iscrowd"].any()


@pytest.mark.parametrize("change", [{"id": "2"}, {"id": 2.5}, {"id": True}, {"id": 2**63}, {"width": 0}, {"height": -3},
                                    {"height": "30"}, {"width": 2**31}, {"width": 40.5}, {"file_name": None},
                                    {"file_name": ""}, {"file_name": "a\0.png"}, {"file_name": 7}])  # fmt: skip
def test_one_malformed_image_is_left_out(tmp_path, change):
    paths = write_coco(tmp_path, [box(1), box(2)], images=[entry(1), entry(2)])
    content = json.loads(paths[1].read_text())
    content["images"][1] |= change
    paths[1].write_text(json.dumps(content))
    dataset = CocoDetection(*paths)
    assert dataset.image_ids == [1] and dataset.findings.dropped["malformed images"] == 1
    assert len(dataset.ground_truth()["annotations"]) == 1
    with pytest.raises(ValueError, match=r"images\[1\]"):
        CocoDetection(*paths, strict=True)


def test_entries_that_are_not_objects(tmp_path):
    paths = write_coco(tmp_path, [box(1), None, 3, [box(1)]], images=[entry(1)])
    content = json.loads(paths[1].read_text())
    content["images"] += [None, 3, "2.png", {}]
    paths[1].write_text(json.dumps(content))
    assert dict(CocoDetection(*paths).findings.dropped) == {"malformed images": 4, "malformed annotations": 3}


def test_sides_written_as_floats(tmp_path):
    paths = write_coco(tmp_path, [box(1)], images=[entry(1) | {"width": 40.0, "height": 30.0}])
    assert CocoDetection(*paths, strict=True)[0][1]["orig_size"] == (30, 40)


def test_repeated_image_ids(tmp_path):
    """A duplicate is read once; of two different images with one id, neither is used."""
    images = [entry(1), entry(1), entry(2), entry(3), entry(2, "3.png")]
    paths = write_coco(tmp_path, [box(1), box(2), box(3)], images=images)
    dataset = CocoDetection(*paths)
    assert dataset.image_ids == [1, 3]
    assert dict(dataset.findings.dropped) == {
        "repeated images": 1, "images that share an id": 1, "annotations of missing images": 1
    }  # fmt: skip
    with pytest.raises(ValueError, match="images has id 2 more than once"):
        CocoDetection(*paths, strict=True)


def test_repeated_file_names(tmp_path):
    """An exporter that lists an image per box: as separate images, each would train the other boxes as background."""
    images = [entry(1, "1.png"), entry(2, "1.png"), entry(3, "./1.png"), entry(4, "4.png")]
    annotations = [box(1), box(2, (1, 1, 9, 9)), box(3, (2, 2, 9, 9)), box(4)]
    dataset = CocoDetection(*write_coco(tmp_path, annotations, images=images))
    assert dataset.image_ids == [1, 4] and len(dataset[0][1]["labels"]) == 3
    assert "2 images listed again under another id, taken as one" in dataset.summary()
    assert {row["image_id"] for row in dataset.ground_truth()["annotations"]} == {1, 4}


def test_repeated_annotation_ids(tmp_path):
    annotations = [box(1), box(1), box(1, (1, 1, 9, 9)), box(2) | {"id": 2}, box(3) | {"id": None}, box(3) | {"id": []}]
    dataset = CocoDetection(*write_coco(tmp_path, annotations))
    assert dict(dataset.findings.dropped) == {"repeated annotations": 1}
    assert dict(dataset.findings.noted) == {"annotations with the id of another": 1}
    ids = [row["id"] for row in dataset.ground_truth()["annotations"]]
    assert len(ids) == 5 and len(set(ids)) == 5 and 0 not in ids


def test_repeated_category_ids(tmp_path):
    same = [{"id": 3, "name": "cat"}, {"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 5, "name": "dog"}]
    assert CocoDetection(*write_coco(tmp_path, [box(1)], categories=same)).category_names == ["cat", "dog"]
    other = [{"id": 3, "name": "cat"}, {"id": 3, "name": "dog"}]
    with pytest.raises(ValueError, match="categories has id 3 more than once: 'cat' and 'dog'"):
        CocoDetection(*write_coco(tmp_path, [box(1)], categories=other))


@pytest.mark.parametrize("name", [None, "", "  "])
def test_categories_without_a_usable_name(tmp_path, name):
    categories = [{"id": 3, "name": name}, {"id": 9}]
    assert CocoDetection(*write_coco(tmp_path, [box(1)], categories=categories)).category_names == ["3", "9"]


@pytest.mark.parametrize("category", ["3", 3.5, True, 2**63, None])
def test_category_ids_that_are_no_integers(tmp_path, category):
    with pytest.raises(ValueError, match=r"categories\[0\] has id .*, which is not an integer"):
        CocoDetection(*write_coco(tmp_path, [], categories=[{"id": category, "name": "cat"}]))


def test_huge_numbers(tmp_path):
    """Finite numbers give no infinite ones, neither float32 boxes nor areas."""
    annotations = [box(1, (-1e300, -1e300, 2e300, 2e300)), box(1, area=1e300), box(2), box(1, (-9e9, 0, 1e10, 5)),
                   box(1) | {"category_id": 10**30}, box(1) | {"image_id": 10**30}]  # fmt: skip
    dataset = CocoDetection(*write_coco(tmp_path, annotations))
    assert dataset.findings.dropped["malformed boxes"] == 2
    assert all(torch.isfinite(dataset[k][1][key]).all() for k in range(3) for key in ("boxes", "area"))


def test_no_annotations_at_all(tmp_path):
    paths = write_coco(tmp_path, [])
    dataset = CocoDetection(*paths)
    assert len(dataset) == 3 and dataset.num_objects == 0 and "file without annotations" in dataset.summary()
    with pytest.raises(ValueError, match="no image left to use"):
        CocoDetection(*paths, keep_empty=False)


def test_the_summary_counts_everything_once(tmp_path, caplog):
    annotations = [box(1), box(1, (30, 20, 100, 5)), box(1, (1, 1, 0, 4)), box(2, category_id=4), box(3), box(8)]
    paths = write_coco(tmp_path, [a | {"id": k} for k, a in enumerate(annotations)])
    (tmp_path / "3.png").unlink()
    (tmp_path / "2.png").write_bytes(b"")
    with caplog.at_level(logging.INFO, "mlc_ext.detectors"):
        dataset = CocoDetection(*paths)
        dataset.verify()
        summary = dataset.summary()
    assert summary.split(": ", 1)[1] == (
        "1 images, 2 boxes (0 crowd), 3 categories; dropped: 1 annotations of missing images, "
        "1 annotations of unknown categories, 1 annotations of unknown images, 1 boxes without area, "
        "1 broken images, 1 missing images; noted: 1 boxes clipped to the image"
    )
    assert caplog.messages[-1] == summary and any("2.png" in message for message in caplog.messages)


_JUNK = [None, True, "", "1.png", "../x", 0, -1, 2, 3, 1.5, 1e308, -1e308, 10**30, float("nan"), [], {}, [1, 2, 3, 4],
         [[]], {"id": 1}, "\ud800", "a" * 300]  # fmt: skip


def _spoil(value, draw):
    """`value` with one thing in it replaced, removed or repeated, anywhere."""
    if isinstance(value, (list, dict)) and value and draw(st.integers(0, 9)) > 0:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw(st.sampled_from(keys))
        value[key] = _spoil(value[key], draw)
        if isinstance(value, list) and draw(st.integers(0, 5)) == 0:
            value.append(copy.deepcopy(value[key]))
        return value
    return copy.deepcopy(draw(st.sampled_from(_JUNK)))


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    return tmp_path_factory.mktemp("spoilt")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), faults=st.integers(1, 4), strict=st.booleans())
def test_whatever_the_json_holds(spoilt, data, faults, strict):
    """A usable data set, or one of the two documented errors with one line."""
    folder, path = write_coco(spoilt, [box(1), box(2) | {"id": 2}, box(3) | {"id": 3}])
    content = json.loads(path.read_text())
    for _ in range(faults):
        content = _spoil(content, data.draw)
    path.write_text(json.dumps(content))
    try:
        dataset = CocoDetection(folder, path, strict=strict)
    except (ValueError, FileNotFoundError) as error:
        assert str(error) and "\n" not in str(error)
        return
    dataset.summary().encode()
    for index in range(len(dataset)):
        try:
            image, target = dataset[index]
        except (ImageDecodeError, DataError):  # no image has the size of its entry
            assert strict or len(dataset.findings.broken) == len(dataset)
            continue
        boxes, (height, width) = target["boxes"], target["orig_size"]
        assert image.shape == (3, height, width)
        assert torch.isfinite(boxes).all() and torch.isfinite(target["area"]).all()
        assert (boxes[:, :2] < boxes[:, 2:]).all() and (boxes >= 0).all()
        assert (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        assert ((target["labels"] >= 1) & (target["labels"] <= dataset.num_classes)).all()
    CocoEvaluator(dataset).summarize()
