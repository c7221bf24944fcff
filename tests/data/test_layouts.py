"""The layouts in which data sets come, each read in place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from coco_files import box, entry
from PIL import Image

from mlc_ext.detectors.data import not_found
from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.errors import DatasetNotFound
from mlc_ext.detectors.data.paths import find_dataset, require_split

BOTH = ("train", "val")


def put(root: Path, json_file: str, names: dict[str, str], *, first_id: int = 1) -> None:
    """A JSON of images with one box each; ``names`` are those in the JSON -> the paths of the files."""
    ids = range(first_id, first_id + len(names))
    content = {
        "images": [entry(key, name) for key, name in zip(ids, names, strict=True)],
        "annotations": [box(key) | {"id": key} for key in ids],
        "categories": [{"id": 3, "name": "bird"}],
    }
    (root / json_file).parent.mkdir(parents=True, exist_ok=True)
    (root / json_file).write_text(json.dumps(content))
    for key, path in zip(ids, names.values(), strict=True):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (key, 0, 0)).save(root / path)


# layout, JSON, name in the JSON, file, names of the splits
SPLIT_LAYOUTS = [
    ("COCO format", "annotations/instances_{}.json", "a.png", "{}/a.png", BOTH),
    ("COCO format", "annotations/instances_{}.json", "a.png", "images/{}/a.png", ("train", "validation")),  # CVAT
    ("COCO format", "annotations/instances_{}.json", "a.png", "images/{}/a.png", ("Train", "Validation")),  # CVAT
    ("COCO 2017", "annotations/instances_{}2017.json", "000000000009.png", "{}2017/000000000009.png", BOTH),
    ("Roboflow COCO", "{}/_annotations.coco.json", "a_png.rf.0a1b.png", "{}/a_png.rf.0a1b.png", ("train", "valid")),
    ("FiftyOne COCO", "{}/labels.json", "a.png", "{}/data/a.png", ("train", "validation")),
    ("images and a JSON per split", "{}.json", "images/{}.png", "images/{}.png", BOTH),
    ("images and a JSON per split", "annotations/{}.json", "a.png", "{}/a.png", BOTH),
]
WHOLE_LAYOUTS = [
    ("CVAT COCO", "annotations/instances_default.json", {"a.png": "images/a.png", "s/b.png": "images/s/b.png"}),
    ("CVAT COCO", "annotations/instances_default.json", {"a.png": "images/default/a.png"}),
    ("Label Studio COCO", "result.json", {"images/3/0a1b2c3d-a.png": "images/0a1b2c3d-a.png"}),
    ("Label Studio COCO", "result.json", {r"images\0a1b2c3d-a.png": "images/0a1b2c3d-a.png"}),
    ("Label Studio COCO", "result.json", {r"images\1/90fbb0c7-a.png": "images/90fbb0c7-a.png"}),
    ("Label Studio COCO", "result.json", {"0a1b2c3d-a.png": "a.png", "0a1b2c3d-b b.png": "b b.png"}),
    ("Label Studio COCO", "result.json", {r"..\..\label-studio\media\upload\4\0a1b-a.png": "images/0a1b-a.png"}),
    ("Label Studio COCO", "result.json", {"../x/data/media/upload/4/0a1b2c3d-a.png": "images/0a1b2c3d-a.png"}),
    ("Label Studio COCO", "result.json", {"/data/upload/4/0a1b2c3d-a.png": "images/0a1b2c3d-a.png"}),
    ("Label Studio COCO", "result.json", {"http://localhost:8080/data/upload/4/0a1b-a.png": "images/0a1b-a.png"}),
    ("Label Studio COCO", "result.json", {"/data/local-files/?d=photos%201/a.png": "images/photos 1/a.png"}),
    ("Label Studio COCO", "result.json", {"/data/local-files/?d=photos/1/a.png": "images/a.png"}),
    ("FiftyOne COCO", "labels.json", {"a.png": "data/a.png"}),
    ("Roboflow COCO", "_annotations.coco.json", {"a.png": "a.png"}),
    ("images and one JSON", "my labels.json", {"a.png": "images/a.png"}),
    ("images and one JSON", "my labels.json", {"images/a.png": "images/a.png"}),
    ("images and one JSON", "annotations/x.json", {"a.png": "images/a.png"}),
    ("images and one JSON", "x.json", {"a.png": "a.png"}),
]


@pytest.mark.parametrize(("layout", "json_file", "name", "file", "splits"), SPLIT_LAYOUTS)
def test_splits(tmp_path, layout, json_file, name, file, splits):
    for split in splits:
        put(tmp_path, json_file.format(split), {name.format(split): file.format(split)})
    found = find_dataset(tmp_path)
    assert found.train_layout == found.val_layout == layout
    for split, own in zip(BOTH, splits, strict=True):
        images, annotations = getattr(found, f"{split}_images"), getattr(found, f"{split}_annotations")
        assert annotations == tmp_path / json_file.format(own)
        dataset = CocoDetection(images, annotations, strict=True)
        assert dataset.image_path(0).resolve() == tmp_path / file.format(own)
        assert dataset[0][0][0, 0, 0] == 1 and dataset.num_objects == 1


@pytest.mark.parametrize(("layout", "json_file", "names"), WHOLE_LAYOUTS)
def test_one_json(tmp_path, layout, json_file, names):
    put(tmp_path, json_file, names)
    found = find_dataset(tmp_path, splits=("train",))
    assert (found.train_layout, found.train_annotations) == (layout, tmp_path / json_file)
    dataset = CocoDetection(found.train_images, found.train_annotations, strict=True)
    assert [dataset.image_path(k) for k in range(len(dataset))] == [tmp_path / path for path in names.values()]
    with pytest.raises(DatasetNotFound, match="data.val_fraction=0.2"):
        find_dataset(tmp_path)
    with pytest.raises(DatasetNotFound) as refused:
        find_dataset(tmp_path, val_annotations=tmp_path / "absent.json")
    assert "data.val_fraction" not in str(refused.value)  # which the named path excludes
    require_split(tmp_path)


def test_one_json_is_not_taken_beside_splits(tmp_path):
    put(tmp_path, "annotations/instances_val2017.json", {"b.png": "val2017/b.png"})
    put(tmp_path, "labels.json", {"a.png": "data/a.png"})
    assert find_dataset(tmp_path, splits=("val",)).val_layout == "COCO 2017"
    with pytest.raises(DatasetNotFound):
        find_dataset(tmp_path, splits=("train",))


def test_several_jsons_are_no_layout(tmp_path):
    for name in ("a", "b"):
        put(tmp_path, f"{name}.json", {f"{name}.png": f"images/{name}.png"})
    with pytest.raises(DatasetNotFound, match=r"which has images/ \(2 files\), a.json, b.json\n"):
        find_dataset(tmp_path)
    (tmp_path / "b.json").rename(tmp_path / ".b.json")  # as macOS leaves beside files
    assert find_dataset(tmp_path, splits=("train",)).train_annotations == tmp_path / "a.json"


def test_a_file_of_another_folder_is_not_taken(tmp_path):
    """Frames of videos have the same names."""
    put(tmp_path, "x.json", {"video1/1.png": "images/video1/1.png", "video2/1.png": "images/video2/1.png"})
    (tmp_path / "images" / "video2" / "1.png").unlink()
    dataset = CocoDetection(tmp_path / "images", tmp_path / "x.json")
    assert dataset.findings.dropped["missing images"] == 1 and dataset.image_ids == [1]
    (tmp_path / "images" / "video1" / "1.png").rename(tmp_path / "images" / "1.png")  # which of both is it?
    with pytest.raises(FileNotFoundError, match="2 of 2 images"):
        CocoDetection(tmp_path / "images", tmp_path / "x.json")


def test_a_file_that_has_its_own_entry_is_not_taken(tmp_path):
    put(tmp_path, "x.json", {"1.png": "images/1.png", "video/1.png": "images/video/1.png"})
    (tmp_path / "images" / "video" / "1.png").unlink()
    dataset = CocoDetection(tmp_path / "images", tmp_path / "x.json")
    assert dataset.image_ids == [1] and dataset.findings.dropped["missing images"] == 1


def test_a_name_of_two_files_is_missing(tmp_path):
    put(tmp_path, "x.json", {"a.png": "images/1/a.png", "b.png": "images/1/b.png"})
    (tmp_path / "images" / "2").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "2" / "a.png")
    dataset = CocoDetection(tmp_path / "images", tmp_path / "x.json")
    assert dataset.image_ids == [2] and dataset.findings.dropped["missing images"] == 1
    assert dataset.findings.noted["images found by their name in another folder than the JSON gives"] == 1


def test_a_refusal_names_what_is_there_and_what_would_help(tmp_path):
    put(tmp_path, "annotations/instances_train.json", {"a.png": "pictures/a.png"})
    with pytest.raises(DatasetNotFound) as refused:
        find_dataset(tmp_path)
    text = str(refused.value)
    assert "  COCO format: train/ with annotations/instances_train.json (there); val/ with " in text
    assert (
        "  Roboflow COCO: train/ with train/_annotations.coco.json; valid/ with valid/_annotations.coco.json\n" in text
    )
    place = f"in {tmp_path}, which has annotations/ (1 file), pictures/ (1 file)"
    assert f"\n{place}\n" in text
    for split in BOTH:
        assert f"--set data.{split}_annotations=FILE.json --set data.{split}_images=FOLDER" in text
    assert max(map(len, text.splitlines())) < 120 + len(str(tmp_path))
    assert (
        refused.value.short == f"data set not found in {tmp_path}, which has annotations/ (1 file), pictures/ (1 file)"
    )


def test_of_several_json_files_the_one_in_cocos_format_is_read(tmp_path):
    put(tmp_path, "labels v2.json", {"a.png": "images/a.png"})
    (tmp_path / "meta.json").write_text('{"images": 1, "annotations": 2}')
    (tmp_path / "empty.json").touch()
    os.mkfifo(tmp_path / "pipe.json")
    assert find_dataset(tmp_path, splits=("train",)).train_annotations == tmp_path / "labels v2.json"
    put(tmp_path, "labels v1.json", {"a.png": "images/a.png"})
    with pytest.raises(DatasetNotFound):
        find_dataset(tmp_path, splits=("train",))


def test_label_studios_notes_are_no_annotations(tmp_path):
    put(tmp_path, "notes.json", {"a.png": "images/a.png"})
    (tmp_path / "notes.json").write_text('{"categories": [{"id": 0, "name": "bird"}], "info": {}}')
    (tmp_path / "labels").mkdir()
    with pytest.raises(DatasetNotFound, match="This is the format of YOLO"):
        find_dataset(tmp_path)
    put(tmp_path, "notes.json", {"a.png": "images/a.png"})  # one in COCO's format is read
    assert find_dataset(tmp_path, splits=("train",)).train_annotations == tmp_path / "notes.json"


def test_a_refusal_counts_the_images_of_the_folder(tmp_path):
    for name in ("a.jpg", "b.PNG", "c.txt"):
        (tmp_path / name).touch()
    with pytest.raises(DatasetNotFound, match=f"in {tmp_path}, which has c.txt, 2 images\n"):
        find_dataset(tmp_path)


def test_a_refusal_of_odd_names_and_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(not_found, "_COUNTED", 3)
    for name in ("a\nb.txt", "c\x1b/d\ne/x", *(f"many/{k}" for k in range(5))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DatasetNotFound, match=r"which has c\?/ \(d\?e/\), many/ \(3 or more files\), a\?b.txt\n"):
        find_dataset(tmp_path)


def test_a_refusal_names_the_folder_inside(tmp_path):
    put(tmp_path / "export 3", "result.json", {"images/a.png": "images/a.png"})
    with pytest.raises(DatasetNotFound, match=f"did you mean '{tmp_path}/export 3'"):
        find_dataset(tmp_path)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["data.yaml", "train/images/a.png", "train/labels/a.txt"], "YOLO"),
        (["images/train/a.png", "labels/train/a.txt"], "YOLO"),
        (["train/images/a.png", "train/labels/a.txt"], "YOLO"),
        (["a.png", "a.txt", "classes.txt"], "YOLO"),
        (["annotations/a.xml", "images/a.jpg"], "Pascal VOC"),
        (["Annotations/a.xml", "JPEGImages/a.jpg"], "Pascal VOC"),
        (["train/a.xml", "train/a.jpg"], "Pascal VOC"),
    ],
)
def test_a_refusal_names_the_converter(tmp_path, files, kind):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DatasetNotFound, match=f"This is the format of {kind}, which mlc-ext convert {tmp_path} NEW"):
        find_dataset(tmp_path)
    with pytest.raises(DatasetNotFound, match="which has"):
        require_split(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"), [("absent", "does not exist"), ("file", "is a file: give its folder"), ("e", "is empty")]
)
def test_a_refusal_of_what_is_no_data_folder(tmp_path, name, said):
    (tmp_path / "file").touch()
    (tmp_path / "e").mkdir()
    with pytest.raises(DatasetNotFound, match=f"in {tmp_path / name}, which {said}\n"):
        find_dataset(tmp_path / name)
