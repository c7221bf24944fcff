"""The forms of YOLO data sets that tools export: paths, splits and label files."""

from __future__ import annotations

import pytest
from foreign_files import picture, text

from mlc_ext.detectors.data.conversion.formats import YOLO, foreign_format
from mlc_ext.detectors.data.conversion.source import UNKNOWN
from mlc_ext.detectors.data.conversion.yolo import read_yolo

LINE = "1 0.5 0.5 0.25 0.4\n"  # of 40 x 20 pixels: x 15..25, y 6..14
BOX = ("dog", (15, 6, 10, 8))
NAMES = "names: [cat, dog]\n"


def found(folder) -> dict:
    """{split: {name: boxes}}"""
    assert foreign_format(folder) == YOLO
    return {
        split: {image.name: [(box.category, pytest.approx(box.xywh)) for box in image.boxes] for image in images}
        for split, images in read_yolo(folder).splits.items()
    }


@pytest.mark.parametrize(
    ("places", "classes"),
    [
        ({"train": "images/train/{}", "val": "images/val/{}"}, "classes.txt"),
        ({"train": "train/images/{}", "val": "valid/images/{}"}, "train/labels/classes.txt"),
        ({"train": "images/{}"}, "labels/classes.txt"),
        ({"train": "{}"}, "classes.txt"),  # labelImg
        ({"train": "train/{}", "test": "test/{}"}, "train/classes.txt"),
        ({"train": "obj_train_data/{}", "val": "obj_Validation_data/{}"}, "obj.names"),  # CVAT
    ],
)
def test_without_a_yaml(tmp_path, places, classes):
    for place in places.values():
        picture(tmp_path / place.format("a.jpg"))
        text(tmp_path / place.format("a.txt").replace("images/", "labels/"), LINE)
    text(tmp_path / classes, "cat\ndog\n")
    assert found(tmp_path) == dict.fromkeys(places, {"a.jpg": [BOX]})


@pytest.mark.parametrize(
    "yaml",
    [
        "path: /home/someone/data\ntrain: images/train\n",
        "train: /kaggle/input/data/images/train\n",
        "path: C:\\data\ntrain: images\\train\n",
        "train: ../images/train\n",
        "train: [images/train, ./images/train/]\nval:\n",
        "train: train.txt\nval: ../valid/images\ntest: images/absent\n",
    ],
)
def test_paths_of_other_machines(tmp_path, yaml):
    text(tmp_path / "data.yaml", yaml + NAMES)
    picture(tmp_path / "images" / "train" / "a.jpg")
    text(tmp_path / "labels" / "train" / "a.txt", LINE)
    text(tmp_path / "train.txt", "\ufeff/data/x/images/train/a.jpg\r\n")
    assert found(tmp_path) == {"train": {"a.jpg": [BOX]}}


@pytest.mark.parametrize(
    ("lines", "boxes", "lost"),
    [
        ("", 0, {}),
        ("\ufeff1 0.5 0.5 0.25 0.4\r\n\r\n1.0\t0.5  0.5 0.25 0.4", 2, {}),
        ("-1 0.5 0.5 0.25 0.4\n2 0.5 0.5 0.25 0.4\n0.5 0.5 0.5 0.25 0.4", 0, {"boxes of unknown classes": 3}),
        ("1 0.375 0.3 0.625 0.3 0.625 0.7 0.375 0.7", 1, {}),
        (
            "1 -0.2 0.5 0.4 0.4\n1 0.5 -1 0.25 2\n1 1.2 0.5 0.4 0.4\n1 0.5 2 0.25 2",  # each touches a side
            0,
            {"boxes outside their image (are they fractions of its sides?)": 4},
        ),
        ("1 0.5 0.5 0.25 0.4 0.9", 0, {"lines that are neither a box (5 values) nor a polygon": 1}),
    ],
)
def test_label_files(tmp_path, lines, boxes, lost):
    text(tmp_path / "data.yaml", "train: images\n" + NAMES)
    picture(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels" / "a.txt", lines)
    source = read_yolo(tmp_path)
    assert found(tmp_path) == {"train": {"a.jpg": [BOX] * boxes}} and source.lost == lost
    assert sum(source.boxes_found.values()) == boxes + sum(lost.values())


def test_an_image_of_two_splits_is_in_both(tmp_path):
    text(tmp_path / "data.yaml", "train: images\nval: images\n" + NAMES)
    picture(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels" / "a.txt", LINE)
    assert found(tmp_path) == {"train": {"a.jpg": [BOX]}, "val": {"a.jpg": [BOX]}}
    assert read_yolo(tmp_path).notes == {"images in several splits": 1}


def test_of_a_place_that_is_not_there_no_folder_of_another_split_is_used(tmp_path):
    text(tmp_path / "data.yaml", "path: /home/test\ntrain: data/images\nval: ../valid/images\n" + NAMES)
    picture(tmp_path / "images" / "a.jpg")
    source = read_yolo(tmp_path)
    assert list(source.splits) == ["train"]
    assert source.notes["places in data.yaml that are not there"] == 1
    assert source.examples["places in data.yaml that are not there"] == "val: ../valid/images"


def test_keypoints_are_no_polygon(tmp_path):
    text(tmp_path / "data.yaml", "train: images\nkpt_shape: [2, 2]\n" + NAMES)
    picture(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels" / "a.txt", "1 0.5 0.5 0.25 0.4 0.1 0.1 0.9 0.9\n")
    assert found(tmp_path) == {"train": {"a.jpg": [BOX]}}
    assert read_yolo(tmp_path).notes == {"boxes with keypoints, which are not used": 1}


def test_images_of_no_split_are_counted_with_their_boxes(tmp_path):
    text(tmp_path / "data.yaml", "train: images/train\ntest:\n" + NAMES)
    for split in ("train", "test"):
        picture(tmp_path / "images" / split / "a.jpg")
        text(tmp_path / "labels" / split / "a.txt", LINE * 2)
    picture(tmp_path / "images" / "train" / "b.jpg").rename(tmp_path / "images" / "train" / "._a.jpg")  # macOS
    source = read_yolo(tmp_path)
    assert source.problems == {"images of no split": 1} and source.lost == {"boxes of images of no split": 2}
    assert source.boxes_found == {("train", "dog"): 2, (UNKNOWN, "dog"): 2}


def test_a_class_may_have_any_name(tmp_path):
    text(tmp_path / "data.yaml", 'train: images\nnames: ["?", 7]\n')
    picture(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels" / "a.txt", LINE.replace("1 ", "0 ", 1) + LINE)
    assert found(tmp_path) == {"train": {"a.jpg": [("?", BOX[1]), ("7", BOX[1])]}}


def test_class_files_that_differ_are_refused(tmp_path):
    for split, names in (("train", "cat\ndog"), ("val", "dog\ncat")):
        picture(tmp_path / split / "a.jpg")
        text(tmp_path / split / "classes.txt", names)
    with pytest.raises(ValueError, match=r"train/classes.txt and .*val/classes.txt have different class names"):
        read_yolo(tmp_path)
