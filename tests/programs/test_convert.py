"""mlc-ext convert: YOLO and Pascal VOC to COCO, boxes compared with coordinates worked out by hand."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from foreign_files import picture, text, voc
from PIL import Image

from mlc_ext.detectors.convert import main
from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.paths import find_dataset


@pytest.fixture
def convert(tmp_path, capsys):
    """arguments -> (exit code, stdout, stderr, {split: {file name: [(class, x, y, w, h)]}})."""

    def run(*arguments):
        code = main([str(tmp_path / "src"), str(tmp_path / "dst"), "--quiet", *arguments])
        out, err = capsys.readouterr()
        return code, out, err, boxes(tmp_path / "dst") if code == 0 else {}

    return run


def boxes(folder: Path) -> dict:
    found = {}
    for path in sorted(folder.glob("annotations/*.json")):
        split = path.stem.removeprefix("instances_")
        content = json.loads(path.read_text())
        names = {each["id"]: each["name"] for each in content["categories"]}
        images = {each["id"]: each for each in content["images"]}
        found[split] = {each["file_name"]: [] for each in images.values()}
        for row in content["annotations"]:
            file = images[row["image_id"]]["file_name"]
            found[split][file].append((names[row["category_id"]], *(round(v, 6) for v in row["bbox"])))
            assert row["area"] == pytest.approx(row["bbox"][2] * row["bbox"][3]) and row["iscrowd"] == 0
        assert all((folder / split / name).is_file() for name in found[split])
    return found


YAML = "path: ../datasets/mine\ntrain: images/train\nval: images/val\ntest:\nnames:\n  0: cat\n  1: dog\n"


@pytest.mark.parametrize("roboflow", [False, True])
def test_yolo(tmp_path, convert, roboflow):
    """40 x 20 pixels: center (.5, .5), sides .25 and .4 are x 15..25, y 6..14."""
    src = tmp_path / "src"
    folder = "{split}/{kind}" if roboflow else "{kind}/{split}"
    val = "valid" if roboflow else "val"
    if roboflow:
        text(src / "data.yaml", "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\n"
             "names: ['cat', 'dog']\n")  # fmt: skip
    else:
        text(src / "data.yaml", YAML)
    picture(src / folder.format(kind="images", split="train") / "a.jpg")
    picture(src / folder.format(kind="images", split="train") / "empty.png")
    picture(src / folder.format(kind="images", split=val) / "b.jpg", 100, 50)
    text(src / folder.format(kind="labels", split="train") / "a.txt", "1 0.5 0.5 0.25 0.4\n\n0 0.1 0.25 0.2 0.5\n")
    text(src / folder.format(kind="labels", split=val) / "b.txt", "0 0.1 0.2 0.5 0.2 0.5 0.6 0.2 0.8\n")
    code, out, _, found = convert()
    assert code == 0
    assert found["train"] == {"a.jpg": [("dog", 15, 6, 10, 8), ("cat", 0, 0, 8, 10)], "empty.png": []}
    assert found["val"] == {"b.jpg": [("cat", 10, 10, 40, 30)]}  # a polygon of 0.1..0.5, 0.2..0.8
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[2:6]}
    assert rows == {"train": ["2", "2", "2", "2"], "val": ["1", "1", "1", "1"], "cat": ["2", "2"], "dog": ["1", "1"]}
    assert "3 images linked, 0 copied" in out and "1 polygons, of which the bounding box is used, first " in out
    assert os.path.samefile(
        tmp_path / "dst" / "train" / "a.jpg", src / folder.format(kind="images", split="train") / "a.jpg"
    )
    paths = find_dataset(tmp_path / "dst")
    assert CocoDetection(paths.train_images, paths.train_annotations, strict=True).num_objects == 2


def test_random_boxes_come_back(tmp_path, convert):
    """Boxes in pixels -> a file of either format -> COCO."""
    rng, wanted = np.random.default_rng(0), {}
    for key in range(20):
        width, height = (int(side) for side in rng.integers(30, 3000, 2))
        picture(tmp_path / "src" / "images" / f"{key}.png", width, height)
        corners = rng.uniform(0, 1, (5, 2, 2)) * (width, height)
        low, high = corners.min(1), corners.max(1) + 1
        wanted[f"{key}.png"] = np.concatenate([low, high - low], 1)
        rows = np.concatenate([(low + high) / 2, high - low], 1) / (width, height, width, height)
        lines = (" ".join(["0", *(f"{value:.12f}" for value in row)]) for row in rows)
        text(tmp_path / "src" / "labels" / f"{key}.txt", "\n".join(lines))
        voc(tmp_path / "voc" / f"{key}.xml", [("cat", *a, *b) for a, b in zip(low, high, strict=True)], width=width,
            height=height, name=f"{key}.png")  # fmt: skip
        (tmp_path / "voc" / f"{key}.png").hardlink_to(tmp_path / "src" / "images" / f"{key}.png")
    text(tmp_path / "src" / "classes.txt", "cat")
    found = [convert()[3]["train"]]
    assert main([str(tmp_path / "voc"), str(tmp_path / "dst2"), "--quiet", "--voc-origin", "0"]) == 0
    found.append(boxes(tmp_path / "dst2")["train"])
    for each in found:
        assert each.keys() == wanted.keys()
        for name, rows in each.items():
            np.testing.assert_allclose([row[1:] for row in rows], wanted[name], atol=1e-5)


def test_yolo_without_a_yaml(tmp_path, convert):
    src = tmp_path / "src"
    picture(src / "images" / "a.jpg")
    text(src / "labels" / "a.txt", "0 0.5 0.5 0.25 0.4")
    assert "no class names" in convert()[2]
    text(src / "classes.txt", "cat\ndog\n")
    code, out, _, found = convert("--copy")
    assert code == 0 and found == {"train": {"a.jpg": [("cat", 15, 6, 10, 8)]}}
    assert "0 images linked, 1 copied" in out and "no validation split: train with --set data.val_fraction=0.2" in out
    assert not os.path.samefile(tmp_path / "dst" / "train" / "a.jpg", src / "images" / "a.jpg")


def test_what_yolo_loses_is_counted(tmp_path, convert):
    src = tmp_path / "src"
    text(src / "data.yaml", YAML)
    picture(src / "images" / "val" / "v.jpg")
    picture(src / "images" / "train" / "a.jpg")
    picture(src / "images" / "elsewhere" / "a.jpg")
    text(src / "images" / "train" / "broken.jpg", "no image")
    lines = {
        "0 0.5 0.5 0.25 0.4": None,
        "7 0.5 0.5 0.25 0.4": "boxes of unknown classes",
        "0 0.5 0.5 0 0.4": "boxes without area",
        "0 0.5 0.5 nan 0.4": "lines that are not finite numbers",
        "0 a b c d": "lines that are not numbers",
        "0 0.5 0.5 0.25 0.4 0.9": "lines that are neither a box (5 values) nor a polygon",
        "0 20 10 10 8": "boxes outside their image (are they fractions of its sides?)",
    }
    text(src / "labels" / "train" / "a.txt", "\n".join(lines))
    text(src / "labels" / "train" / "broken.txt", "0 0.5 0.5 0.25 0.4\n1 0.5 0.5 0.25 0.4\n")
    text(src / "labels" / "train" / "gone.txt", "1 0.5 0.5 0.25 0.4\n")
    code, out, _, found = convert()
    assert code == 0 and found["train"] == {"a.jpg": [("cat", 15, 6, 10, 8)]}
    for number, reason in enumerate(lines.values(), 1):
        assert reason is None or f"  1 {reason}, first {src}/labels/train/a.txt:{number}: " in out
    assert "  2 boxes of images that cannot be read, first" in out and "  1 images that cannot be read, first" in out
    assert "  1 boxes of label files without an image, first" in out and "  1 label files without an image" in out
    assert "  1 images of no split, first" in out
    rows = {line.strip().rsplit("  ", 4)[0].split("  ")[0]: line.split() for line in out.splitlines()}
    assert rows["train"][1:] == ["2", "1", "9", "1"] and rows["no split"][2:] == ["0", "0", "1", "0"]
    lost = sum(
        int(line.split()[0]) for line in out.partition("boxes lost:\n")[2].partition("files not")[0].splitlines()
    )
    assert lost == 9 + 1 - 1  # every box found is written or counted


def test_voc(tmp_path, convert):
    """Pixels 1..10 are the first ten: x 0, width 10."""
    root = tmp_path / "src" / "VOCdevkit" / "VOC2007"
    for name in ("a", "b", "c"):
        picture(root / "JPEGImages" / f"{name}.jpg")
    voc(root / "Annotations" / "a.xml", [("dog", 1, 1, 10, 20), ("cat", 11, 6, 40, 20)])
    voc(root / "Annotations" / "b.xml", [("cat", 3, 4, 3, 4)])
    voc(root / "Annotations" / "c.xml", [])
    text(root / "ImageSets" / "Main" / "train.txt", "a\nc\n")
    text(root / "ImageSets" / "Main" / "val.txt", "b\n")
    text(root / "ImageSets" / "Main" / "trainval.txt", "a\nb\nc\n")
    code, out, _, found = convert()
    assert code == 0 and "\ncorners count from 1, the last pixel is included (--voc-origin)\n" in out
    assert found["train"] == {"a.jpg": [("dog", 0, 0, 10, 20), ("cat", 10, 5, 30, 15)], "c.jpg": []}
    assert found["val"] == {"b.jpg": [("cat", 2, 3, 1, 1)]}


@pytest.mark.parametrize(("origin", "expected"), [(None, (0, 3, 10, 7)), ("1", (-1, 2, 11, 8))])
def test_voc_of_other_tools(tmp_path, convert, origin, expected):
    """Roboflow writes the XML beside the image, and corners from 0."""
    for split in ("train", "valid"):
        picture(tmp_path / "src" / split / "a.jpg")
        voc(tmp_path / "src" / split / "a.xml", [("cat", 0, 3, 10, 10)])
    code, _, _, found = convert(*([] if origin is None else ["--voc-origin", origin]))
    assert code == 0 and found == {split: {"a.jpg": [("cat", *expected)]} for split in ("train", "val")}


def test_what_voc_loses_is_counted(tmp_path, convert):
    src = tmp_path / "src"
    for name in ("a", "no xml", "difficult"):
        picture(src / "JPEGImages" / f"{name}.jpg")
    rows = [("cat", 1, 1, 9, 9), ("cat", 9, 1, 5, 5), ("", 1, 1, 2, 2), ("cat", 90, 1, 95, 5), ("cat", "x", 1, 95, 5)]
    voc(src / "Annotations" / "a.xml", rows, width=400)
    voc(src / "Annotations" / "gone.xml", [("cat", 1, 1, 2, 2)] * 2)
    text(src / "Annotations" / "broken.xml", "<annotation>")
    entity = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'
    text(src / "Annotations" / "difficult.xml", f"{entity}<annotation><filename>&b;</filename></annotation>")
    code, out, _, found = convert()
    assert code == 0 and found == {"train": {"a.jpg": [("cat", 0, 0, 9, 9)]}}
    for line in (
        "1 boxes without area",
        "1 boxes without a class",
        "1 boxes outside their image",
        "1 objects without four",
        "2 boxes of XML files without an image",
        "1 XML files without an image",
        "2 XML files that cannot be read",
        "2 images without an XML file",
        "1 XML files with another size than their image",
    ):
        assert f"\n  {line}" in out, line
    (src / "Annotations" / "broken.xml").unlink()
    (tmp_path / "dst").rename(tmp_path / "first")
    assert "difficult.xml: it has a document type" in convert()[1]


def test_a_turned_photo_has_the_size_that_viewers_show(tmp_path, convert):
    exif = Image.Exif()
    exif[0x0112] = 6
    src = tmp_path / "src"
    text(src / "classes.txt", "cat")
    picture(src / "images" / "a.jpg", 40, 20, exif=exif)
    text(src / "labels" / "a.txt", "0 0.5 0.5 0.5 0.5")
    code, _, _, found = convert()
    assert code == 0 and found["train"]["a.jpg"] == [("cat", 5, 10, 10, 20)]
    dataset = CocoDetection(tmp_path / "dst" / "train", tmp_path / "dst" / "annotations" / "instances_train.json")
    assert dataset[0][0].shape == (3, 40, 20)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has neither data.yaml, labels/ or classes.txt (YOLO) nor XML files (Pascal VOC)"),
        ({"data.yaml": "train: images\nnames: [a]"}, "data.yaml: train: images is not in"),
        ({"data.yaml": "names: [a"}, "is not YAML"),
        ({"data.yaml": "names: [a, no]\ntrain: ."}, "the name of class 1 must be text, in quotes if it is no"),
        ({"data.yaml": "names: ['']\ntrain: ."}, "the name of class 0 must be text"),
        ({"data.yaml": "names: [[a]]\ntrain: ."}, "the name of class 0 must be text"),
        ({"data.yaml": "names: {a: b}\ntrain: ."}, "names of data.yaml must be numbered from 0"),
        ({"data.yaml": "names: [a]\ntrain: {a: b}"}, "train must be a path or a list of paths, got a dict"),
        ({"data.yaml": "names: [a]\ntrain: .\npath: [a]"}, "path must be a path, got a list"),
        ({"data.yaml": "names: [a, a]\ntrain: .", "a.jpg": "x"}, "two classes have one name: a, a"),
        ({"data.yaml": "names: [a]\ntrain: .", "a.jpg": "x"}, "no image can be used"),
        ({"Annotations/a.xml": "<x/>"}, "has no XML file with annotations"),
    ],
)
def test_what_cannot_be_converted_is_a_line(tmp_path, convert, files, message):
    (tmp_path / "src").mkdir()
    for name, content in files.items():
        text(tmp_path / "src" / name, content)
    code, out, err, _ = convert()
    assert code == 2 and not out and err.startswith("convert.py: ") and message in err and err.count("\n") == 1
    assert not (tmp_path / "dst").exists()


def test_copies_where_links_are_not_possible(tmp_path, convert, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "another disk")

    text(tmp_path / "src" / "classes.txt", "cat")
    picture(tmp_path / "src" / "images" / "a.jpg")
    monkeypatch.setattr(os, "link", refuse)
    code, out, _, found = convert()
    assert code == 0 and "0 images linked, 1 copied" in out and found == {"train": {"a.jpg": []}}


def test_boxes_that_are_lost_in_reading_back_are_counted(tmp_path, convert):
    """A width of 4e-11 pixels is none in float32."""
    text(tmp_path / "src" / "classes.txt", "cat")
    picture(tmp_path / "src" / "images" / "a.jpg")
    text(tmp_path / "src" / "labels" / "a.txt", "0 0.5 0.5 1e-12 0.4\n0 0.5 0.5 0.25 0.4")
    code, out, _, _ = convert()
    assert code == 0 and "\n  1 boxes outside the image in what was written, first " in out
    assert out.splitlines()[2].split() == ["train", "1", "1", "2", "1"]


def test_a_data_set_without_a_class(tmp_path, convert):
    picture(tmp_path / "src" / "JPEGImages" / "a.jpg")
    voc(tmp_path / "src" / "Annotations" / "a.xml", [])
    assert convert()[2] == f"convert.py: {tmp_path}/src: no object has a class\n" and not (tmp_path / "dst").exists()


def test_the_origin_of_vocs_corners_is_refused_for_yolo(tmp_path, convert):
    text(tmp_path / "src" / "classes.txt", "cat")
    picture(tmp_path / "src" / "images" / "a.jpg")
    assert convert("--voc-origin", "0")[2].startswith("convert.py: --voc-origin is for Pascal VOC")


def test_file_names_that_are_not_utf_8(tmp_path, convert):
    """A JSON cannot have their bytes: the new folder has other names."""
    src = tmp_path / "src"
    text(src / "classes.txt", "cat")
    for name in (b"\xff", b"\xfe"):
        picture(src / "images" / "a.jpg").rename(src / "images" / f"{os.fsdecode(name)}.jpg")
        text(src / "labels" / "a.txt", "0 0.5 0.5 0.25 0.4").rename(src / "labels" / f"{os.fsdecode(name)}.txt")
    code, _, _, found = convert()
    assert code == 0 and found["train"] == {name: [("cat", 15, 6, 10, 8)] for name in ("\ufffd.jpg", "\ufffd_2.jpg")}


def test_a_file_in_place_of_the_folder(tmp_path, convert):
    text(tmp_path / "src", "train: images")
    assert convert()[2] == f"convert.py: {tmp_path}/src is a file: give its folder\n"


def test_a_target_that_is_there_stays(tmp_path, convert):
    text(tmp_path / "src" / "classes.txt", "cat")
    picture(tmp_path / "src" / "images" / "a.jpg")
    text(tmp_path / "dst" / "x", "mine")
    code, _, err, _ = convert("--format", "yolo")
    assert code == 2 and "is there already: give a new folder" in err and os.listdir(tmp_path / "dst") == ["x"]
