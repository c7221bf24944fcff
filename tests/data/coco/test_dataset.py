"""CocoDetection, decode_image and find_dataset, on good files and on hostile ones."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_files import box, encoded, write_coco
from PIL import Image

from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.errors import ImageDecodeError
from mlc_ext.detectors.data.images.decode import decode_image
from mlc_ext.detectors.data.paths import find_dataset

SHARED = Path(os.environ.get("MLC_SHARED_DIR", Path(__file__).resolve().parents[4] / "shared"))


def test_item(tmp_path):
    dataset = CocoDetection(
        *write_coco(tmp_path, [box(2), box(2, (1, 2, 3, 4), 90, iscrowd=1, area=5.5), box(1, (0, 0, 40, 30), 7)])
    )
    image, target = dataset[1]
    assert image.dtype == torch.uint8 and image.shape == (3, 30, 40) and (image == 20).all()
    assert target["boxes"].tolist() == [[5, 6, 15, 14], [1, 2, 4, 6]] and target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [1, 3] and target["labels"].dtype == torch.int64
    assert target["iscrowd"].tolist() == [False, True] and target["iscrowd"].dtype == torch.bool
    assert target["area"].tolist() == [80, 5.5] and target["area"].dtype == torch.float32
    assert target["image_id"] == 2 and target["orig_size"] == (30, 40)
    assert not dataset.findings.dropped and "dropped" not in dataset.summary()


def test_category_ids_with_holes(tmp_path):
    dataset = CocoDetection(*write_coco(tmp_path, [box()]))
    assert dataset.label_to_category == {1: 3, 2: 7, 3: 90}
    assert dataset.category_names == ["bird", "cat", "dog"] and dataset.num_classes == 3
    assert all(dataset.classes.category_to_label[c] == label for label, c in dataset.label_to_category.items())


def test_chosen_categories_alone_are_there(tmp_path):
    paths = write_coco(tmp_path, [box(1, id=1), box(2, category_id=90, id=2), box(2, (1, 1, 5, 5), 3, id=3)])
    dataset = CocoDetection(*paths, categories=("dog", "bird"))
    assert dataset.category_names == ["bird", "dog"] and dataset.label_to_category == {1: 3, 2: 90}
    assert [dataset[k][1]["labels"].tolist() for k in range(3)] == [[1], [2, 1], []]
    dogs = CocoDetection(*paths, categories=["dog"], strict=True)
    assert (
        dogs.image_ids == [1, 2, 3] and dogs.num_objects == 1 and not dogs.findings.dropped and not dogs.findings.noted
    )
    assert [entry["name"] for entry in dogs.ground_truth()["categories"]] == ["dog"]
    assert CocoDetection(*paths, categories=["dog"], keep_empty=False).image_ids == [2]
    with pytest.raises(ValueError, match="instances.json: no category 'dgo'; did you mean 'dog'"):
        CocoDetection(*paths, categories=["cat", "dgo"])
    with pytest.raises(ValueError, match="no category is chosen"):
        CocoDetection(*paths, categories=[])


def test_images_without_boxes(tmp_path):
    paths = write_coco(tmp_path, [box(1), box(2, iscrowd=1)])
    dataset = CocoDetection(*paths)
    assert dataset.image_ids == [1, 2, 3]
    _, target = dataset[2]
    assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,) and target["iscrowd"].shape == (0,)
    filtered = CocoDetection(*paths, keep_empty=False)  # a crowd alone is nothing to train on
    assert filtered.image_ids == [1] and filtered.findings.dropped["images without boxes"] == 2


def test_limit_takes_the_first_images_after_filtering(tmp_path):
    paths = write_coco(tmp_path, [box(2), box(3), box(3, (1, 1, 5, 5))])
    assert CocoDetection(*paths, limit=2).image_ids == [1, 2]
    filtered = CocoDetection(*paths, keep_empty=False, limit=1)
    assert filtered.image_ids == [2] and [a["image_id"] for a in filtered.ground_truth()["annotations"]] == [2]
    assert CocoDetection(*paths, limit=99).image_ids == [1, 2, 3]
    with pytest.raises(ValueError, match="limit must be at least 1 or None, got 0"):
        CocoDetection(*paths, limit=0)


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (box(bbox=(5, 5, 0, 8)), "boxes without area"),
        (box(bbox=(5, 5, 8, -1)), "boxes without area"),
        (box(bbox=(float("nan"), 5, 8, 8)), "malformed boxes"),
        (box(bbox=(5, 5, float("inf"), 8)), "malformed boxes"),
        (box(bbox=(5, 5, 8)), "malformed boxes"),
        (box(bbox=("5", 5, 8, 8)), "malformed boxes"),
        (box(bbox=(10**400, 5, 8, 8)), "malformed boxes"),
        (box() | {"bbox": None}, "malformed boxes"),
        (box(bbox=(40, 5, 8, 8)), "boxes outside the image"),
        (box(bbox=(-9, -9, 9, 9)), "boxes outside the image"),
        (box(bbox=(1e300, 0, 1e300, 5)), "boxes outside the image"),
        (box(bbox=(5, 5, 1e-12, 8)), "boxes outside the image"),  # empty once in float32
        (box(category_id=4), "annotations of unknown categories"),
        (box(category_id=[3]), "annotations of unknown categories"),
        (box(image_id=99), "annotations of unknown images"),
        (box(image_id=None), "annotations of unknown images"),
        ("not an object", "malformed annotations"),
    ],
)
def test_bad_annotations_are_dropped_and_counted(tmp_path, annotation, reason):
    dataset = CocoDetection(*write_coco(tmp_path, [box(), annotation, box(2)]))
    assert dict(dataset.findings.dropped) == {reason: 1}
    assert f"1 {reason}" in dataset.summary()
    assert len(dataset[0][1]["labels"]) == len(dataset[1][1]["labels"]) == 1


def test_boxes_are_clipped_and_areas_mended(tmp_path):
    dataset = CocoDetection(
        *write_coco(
            tmp_path,
            [
                box(bbox=(-5, -5, 20, 100)),
                box(bbox=(30, 20, 100, 5), area=float("nan")),
                box() | {"area": None},
            ],
        )
    )
    target = dataset[0][1]
    assert target["boxes"].tolist()[:2] == [[0, 0, 15, 30], [30, 20, 40, 25]]
    assert target["area"].tolist() == [80, 50, 80]
    assert dataset.ground_truth()["annotations"][0]["bbox"] == [
        -5,
        -5,
        20,
        100,
    ]  # COCO evaluates the file's boxes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "list, not an object"),
        ('{"info": {}}', "no list images, annotations, categories"),
        ('{"images": [], "annotations": {}, "categories": []}', "no list annotations"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "images is empty"),
        (
            '{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1}]}',
            r"images\[0\] has no file_name, width",
        ),
        ('{"images": [3], "annotations": [], "categories": [{"id": 1}]}', r"images\[0\] has no id"),
    ],
)
def test_json_that_is_not_coco(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        CocoDetection(tmp_path, tmp_path / "a.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "one"}, "not an integer"),
        ({"width": 0}, "has size"),
        ({"height": "30"}, "has size"),
    ],
)
def test_bad_image_entries(tmp_path, change, message):
    images = [{"id": 1, "file_name": "1.png", "width": 40, "height": 30} | change]
    with pytest.raises(ValueError, match=message):
        CocoDetection(*write_coco(tmp_path, [], images=images, files=False))


@pytest.mark.parametrize(
    "name",
    ["../1.png", "a/../../1.png", "/etc/passwd", "..\\1.png", "C:\\x.png", "\\x.png", "a\0.png", "", None, 3],
)
def test_file_names_cannot_escape(tmp_path, name):
    images = [{"id": 1, "file_name": name, "width": 40, "height": 30}]
    with pytest.raises(ValueError, match="file name|leads out of"):
        CocoDetection(*write_coco(tmp_path, [], images=images, files=False))


@pytest.mark.parametrize(
    "name",
    [
        "/data/upload/3/../1.png",
        "../data/upload/3/",
        "../data/upload/3/../1.png",
        "/data/upload/x/1.png",
        "/data/local-files/?d=../1.png",
        "/data/local-files/?d=/etc/passwd",
        "/data/local-files/?d=C:\\x.png",
        "/data/local-files/?d=",
    ],
)
def test_paths_of_label_studios_storage_cannot_escape(tmp_path, name):
    images = [{"id": 1, "file_name": name, "width": 40, "height": 30}]
    with pytest.raises(ValueError, match="leads out of"):
        CocoDetection(*write_coco(tmp_path, [], images=images, files=False))


def test_names_with_folders(tmp_path):
    (tmp_path / "deep").mkdir()
    images = [{"id": 1, "file_name": "deep/1.png", "width": 40, "height": 30}]
    assert len(CocoDetection(*write_coco(tmp_path, [box()], images=images))) == 1


def test_missing_images(tmp_path):
    paths = write_coco(tmp_path, [box(1), box(2), box(3)])
    (tmp_path / "2.png").unlink()
    dataset = CocoDetection(*paths)
    assert dataset.image_ids == [1, 3]
    assert dict(dataset.findings.dropped) == {"missing images": 1, "annotations of missing images": 1}
    with pytest.raises(FileNotFoundError, match="1 of 3 images.*2.png"):
        CocoDetection(*paths, strict=True)
    for k in (1, 3):
        (tmp_path / f"{k}.png").unlink()
    with pytest.raises(FileNotFoundError, match="3 of 3"):
        CocoDetection(*paths)


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "other size"])
def test_broken_image_is_replaced(tmp_path, how):
    paths = write_coco(tmp_path, [box(1), box(2), box(3)])
    good = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)))
    data = {
        "truncated": good[:-900],
        "empty": b"",
        "text": b"hello",
        "other size": encoded(Image.new("RGB", (41, 30))),
    }[how]
    (tmp_path / "3.png").write_bytes(data)
    dataset = CocoDetection(*paths)
    image, target = dataset[2]  # the next one, past the end, is the first
    assert target["image_id"] == 1 and (image == 10).all()
    assert list(dataset.findings.broken) == ["3.png"] and "1 broken" in dataset.summary()
    with pytest.raises(ImageDecodeError, match=r"3\.png"):
        CocoDetection(*paths, strict=True)[2]


def test_image_that_vanishes_later(tmp_path):
    dataset = CocoDetection(*write_coco(tmp_path, [box(1)]))
    for k in (1, 2):
        (tmp_path / f"{k}.png").unlink()
    assert dataset[0][1]["image_id"] == 3
    (tmp_path / "3.png").unlink()
    with pytest.raises(RuntimeError, match="none of the 3 images"):
        dataset[0]


def test_cache_and_pickle(tmp_path):
    dataset = CocoDetection(*write_coco(tmp_path, [box()]), cache=True)
    for k in (1, 2, 3):
        (tmp_path / f"{k}.png").unlink()
    copy = pickle.loads(pickle.dumps(dataset))  # how a spawned worker gets it
    assert (copy[2][0] == 30).all() and not copy.findings.broken


def test_limit(tmp_path):
    paths = write_coco(tmp_path, [box(1), box(3), box(3)])
    dataset = CocoDetection(*paths, keep_empty=False, limit=1)
    assert dataset.image_ids == [1] and len(dataset.ground_truth()["annotations"]) == 1
    assert CocoDetection(*paths, limit=9).image_ids == [1, 2, 3]
    with pytest.raises(ValueError, match="got 0"):
        CocoDetection(*paths, limit=0)


def test_indices(tmp_path):
    dataset = CocoDetection(*write_coco(tmp_path, [box()]))
    assert dataset[-1][1]["image_id"] == 3
    with pytest.raises(IndexError):
        dataset[3]
    assert [target["image_id"] for _, target in (dataset[i] for i in range(3))] == [1, 2, 3]


def test_transforms_are_applied(tmp_path):
    dataset = CocoDetection(*write_coco(tmp_path, [box()]), lambda image, target: (image + 1, {**target, "seen": True}))
    image, target = dataset[0]
    assert (image == 11).all() and target["seen"]


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("L", 100, 100),
        ("LA", (100, 7), 100),
        ("1", 1, 255),
        ("P", 0, None),
        ("RGBA", (100, 100, 100, 0), 100),
        ("I;16", 100 * 257, 100),
        ("I", 100 * 257, 100),
        ("CMYK", (0, 0, 0, 155), 100),
        ("F", 0.5, 127),
    ],
)
def test_decode_modes(mode, color, expected):
    image = Image.new(mode, (4, 3), color)
    if mode == "P":
        image.putpalette([9, 9, 9] + [0] * 765)
        image.info["transparency"] = b"\x00\xff"
        expected = 9
    kind = {"CMYK": "TIFF", "F": "TIFF", "I": "TIFF"}.get(mode, "PNG")
    decoded = decode_image(encoded(image, kind), (3, 4))
    assert decoded.shape == (3, 3, 4) and decoded.dtype == torch.uint8
    assert (decoded.int() - expected).abs().max() <= 1


def test_cmyk_jpeg():
    decoded = decode_image(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert decoded.shape == (3, 16, 16) and decoded[0].float().mean() > 200 and decoded[1:].float().mean() < 60


def test_exif_is_applied_only_to_agree_with_the_annotations():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    data = encoded(Image.fromarray(pixels), exif=exif)
    assert decode_image(data, (3, 4))[0].tolist() == pixels.tolist()
    turned = np.rot90(pixels, -1).tolist()
    assert decode_image(data, (4, 3))[0].tolist() == turned
    assert decode_image(data)[0].tolist() == turned
    with pytest.raises(ImageDecodeError, match="4x3 pixels, but the annotations give 8x8"):
        decode_image(data, (8, 8))


def test_find_dataset(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        find_dataset(tmp_path)
    for name in ("train2017", "val2017", "instances_train.json", "instances_val2017.json"):
        assert name in str(error.value)
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").mkdir()
        (tmp_path / "annotations" / f"instances_{split}2017.json").touch()
    paths = find_dataset(tmp_path)
    assert paths.train_images == tmp_path / "train2017"
    assert paths.val_annotations == tmp_path / "annotations" / "instances_val2017.json"
    (tmp_path / "train").mkdir()  # half of the other layout does not mix in
    assert find_dataset(tmp_path) == paths
    (tmp_path / "annotations" / "instances_train.json").touch()
    assert find_dataset(tmp_path).train_images == tmp_path / "train"
    assert find_dataset(tmp_path, train_images=tmp_path / "val2017").train_images == tmp_path / "val2017"
    explicit = find_dataset(None, splits=("val",), val_images=paths.val_images, val_annotations=paths.val_annotations)
    assert explicit.val_images == paths.val_images and explicit.train_images is None
    with pytest.raises(FileNotFoundError, match="neither a data folder"):
        find_dataset(None, val_images=tmp_path)
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        find_dataset(tmp_path, val_images=tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="'test'"):
        find_dataset(tmp_path, splits=("test",))


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_images(split):
    root = SHARED / "data" / "coco_small"
    if not root.is_dir():
        pytest.skip(f"the real images of {root} are not here")
    paths = find_dataset(root)
    images, annotations = getattr(paths, f"{split}_images"), getattr(paths, f"{split}_annotations")
    dataset = CocoDetection(images, annotations, strict=True)
    content = json.loads(annotations.read_text())
    assert len(dataset) == len(content["images"]) and dataset.num_classes == 80
    assert sum(len(dataset.target(i)["labels"]) for i in range(len(dataset))) + sum(
        dataset.findings.dropped.values()
    ) == len(content["annotations"])
    assert dataset.label_to_category[80] == 90 and dataset.category_names[0] == "person"
    for index in range(10):
        image, target = dataset[index]
        assert image.shape[1:] == target["orig_size"] and image.float().std() > 5
