"""The forms of Pascal VOC data sets that tools export: folders, lists and XML files."""

from __future__ import annotations

from pathlib import Path

import pytest
from foreign_files import picture, text, voc

from mlc_ext.detectors.data.conversion import voc as module
from mlc_ext.detectors.data.conversion.formats import VOC, foreign_format
from mlc_ext.detectors.data.conversion.voc import read_voc

CORNERS = ("cat", 1, 1, 10, 20)


def found(folder) -> dict[str, dict[str, Path]]:
    """{split: {name: file}} of images with one box each"""
    assert foreign_format(folder) == VOC
    source = read_voc(folder)
    assert all(box.xywh == (0, 0, 10, 20) for images in source.splits.values() for each in images for box in each.boxes)
    assert all(len(image.boxes) == 1 for images in source.splits.values() for image in images)
    return {split: {image.name: image.path for image in images} for split, images in source.splits.items()}


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        ({"annotations/a.xml": "images/a.png"}, {"train": ["a.png"]}),  # many sets of Kaggle
        ({"annotations/xmls/a.xml": "images/a.png"}, {"train": ["a.png"]}),  # Oxford pets
        ({"Annotations/a.xml": "a.png"}, {"train": ["a.png"]}),
        ({"a.xml": "a.png", "b.xml": "b.png"}, {"train": ["a.png", "b.png"]}),  # labelImg
        ({"train/a.xml": "train/a.png", "valid/a.xml": "valid/a.png"}, {"train": ["a.png"], "val": ["a.png"]}),
        (
            {f"{split}/annotations/a.xml": f"{split}/images/a.png" for split in ("train", "test")},
            {"train": ["a.png"], "test": ["a.png"]},
        ),
        (
            {f"Annotations/{split}/a.xml": f"JPEGImages/{split}/a.png" for split in ("train", "val")},
            {"train": ["train/a.png"], "val": ["val/a.png"]},
        ),
        (
            {f"VOCdevkit/VOC{year}/Annotations/a.xml": f"VOCdevkit/VOC{year}/JPEGImages/a.png" for year in (7, 12)},
            {"train": ["VOC7/a.png", "VOC12/a.png"]},
        ),
    ],
)
def test_folders(tmp_path, files, splits):
    for xml, image in files.items():
        voc(tmp_path / xml, [CORNERS], name="of another machine.png")
        picture(tmp_path / image)
        picture(tmp_path / image).rename((tmp_path / image).with_name("._a.png"))  # macOS
        picture(tmp_path / image)
        text((tmp_path / xml).with_name("._a.xml"), "\0")
    assert {split: sorted(names) for split, names in found(tmp_path).items()} == {
        split: sorted(names) for split, names in splits.items()
    }
    assert not read_voc(tmp_path).problems


@pytest.mark.parametrize("listed", [False, True])
def test_images_of_one_name_in_several_folders(tmp_path, listed):
    """CVAT's subfolders: each XML has the image of its own folder."""
    for folder in ("a", "b"):
        picture(tmp_path / "JPEGImages" / folder / "0.png")
        voc(tmp_path / "Annotations" / folder / "0.xml", [CORNERS], name=f"{folder}/0.png")
    if listed:
        text(tmp_path / "ImageSets" / "Main" / "Train.txt", "a/0\n")
        text(tmp_path / "ImageSets" / "Main" / "Validation.txt", "b/0\n")
    own = {f"{folder}/0.png": tmp_path / "JPEGImages" / folder / "0.png" for folder in ("a", "b")}
    if not listed:
        assert found(tmp_path) == {"train": own}
    else:
        assert found(tmp_path) == {
            split: {name: own[name]} for split, name in (("train", "a/0.png"), ("val", "b/0.png"))
        }


def test_a_name_of_several_images_is_not_guessed(tmp_path):
    for folder in ("a", "b"):
        picture(tmp_path / "images" / folder / "0.png")
    voc(tmp_path / "annotations" / "0.xml", [CORNERS], name="0.png")
    source = read_voc(tmp_path)
    assert not source.splits and source.problems["XML files without an image"] == 1


def test_a_path_is_worth_more_than_a_name(tmp_path):
    for place in ("0.png", "a/0.png"):
        picture(tmp_path / "images" / place)
    voc(tmp_path / "annotations" / "0.xml", [CORNERS], name="0.png")
    assert found(tmp_path) == {"train": {"0.png": tmp_path / "images" / "0.png"}}


def test_difficult_objects_are_used_and_counted(tmp_path):
    picture(tmp_path / "a.png")
    path = voc(tmp_path / "a.xml", [CORNERS, CORNERS])
    path.write_text(path.read_text().replace("<difficult>0", "<difficult> 1 ", 1))
    source = read_voc(tmp_path)
    assert len(source.splits["train"][0].boxes) == 2
    assert source.notes == {"difficult objects, used as any other": 1}


def test_a_huge_xml_is_not_read(tmp_path, monkeypatch):
    for stem in "ab":
        picture(tmp_path / f"{stem}.png")
    monkeypatch.setattr(module, "_MAX_BYTES", voc(tmp_path / "a.xml", [CORNERS]).stat().st_size)
    voc(tmp_path / "b.xml", [CORNERS] * 2)
    assert list(found(tmp_path)["train"]) == ["a.png"]
    assert "b.xml: it is larger than" in read_voc(tmp_path).examples["XML files that cannot be read"]


def test_of_two_suffixes_the_named_one_is_used(tmp_path):
    for suffix in ("png", "jpg"):
        picture(tmp_path / "images" / f"0.{suffix}")
        picture(tmp_path / "images" / f"1.{suffix}")
        voc(tmp_path / "annotations" / f"{'0' if suffix == 'png' else '1'}.xml", [CORNERS],
            name=f"{'0' if suffix == 'png' else '1'}.{suffix}")  # fmt: skip
    assert list(found(tmp_path)["train"]) == ["0.png", "1.jpg"]


def test_an_xml_with_another_name_than_its_image(tmp_path):
    picture(tmp_path / "images" / "photo.png")
    voc(tmp_path / "annotations" / "7.xml", [CORNERS], name="C:\\Users\\x\\photo.png")
    assert list(found(tmp_path)["train"]) == ["photo.png"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1", "cp1252", "gb2312", "shift_jis"])
def test_encodings(tmp_path, encoding):
    label = {"gb2312": "\u732b", "shift_jis": "\u732b", "utf-16": "\u732b"}.get(encoding, "B\u00e4r")
    picture(tmp_path / "JPEGImages" / "a.jpg")
    path = voc(tmp_path / "Annotations" / "a.xml", [(label, *CORNERS[1:])])
    declared = encoding.removesuffix("-sig")
    path.write_bytes(f'<?xml version="1.0" encoding="{declared}"?>\n{path.read_text()}'.encode(encoding))
    assert [box.category for box in read_voc(tmp_path).splits["train"][0].boxes] == [label]


def test_an_encoding_of_several_bytes_hides_no_document_type(tmp_path):
    entity = '<?xml version="1.0" encoding="gb2312"?><!DOCTYPE x [<!ENTITY a "cat">]><annotation>&a;</annotation>'
    text(tmp_path / "Annotations" / "a.xml", entity)
    with pytest.raises(ValueError, match="no XML file with annotations"):
        read_voc(tmp_path)


def test_lists_of_names_with_spaces(tmp_path):
    for stem in ("my photo", "my photo 1", "my"):
        picture(tmp_path / "JPEGImages" / f"{stem}.png")
        voc(tmp_path / "Annotations" / f"{stem}.xml", [CORNERS])
    text(tmp_path / "ImageSets" / "Main" / "train.txt", '"my photo"\n')  # CVAT
    text(tmp_path / "ImageSets" / "Main" / "val.txt", "my photo 1\n")
    assert {split: list(names) for split, names in found(tmp_path).items()} == {
        "train": ["my photo.png"],
        "val": ["my photo 1.png"],
    }


@pytest.mark.parametrize(
    ("lists", "splits", "left_out"),
    [
        ({"train": "a", "val": "b"}, {"train": ["a.png"], "val": ["b.png"]}, 1),
        ({"trainval": "a\nb"}, {"train": ["a.png", "b.png"]}, 1),
        ({"test": "a"}, {"test": ["a.png"], "train": ["b.png", "c.png"]}, 0),  # a list of the training images is absent
        ({"train": "a.png\n", "val": '"b"\n'}, {"train": ["a.png"], "val": ["b.png"]}, 1),
        ({"cat_train": "a  1", "default": "a"}, {"train": ["a.png", "b.png", "c.png"]}, 0),  # of a class; of no split
    ],
)
def test_images_that_no_list_names(tmp_path, lists, splits, left_out):
    for stem in "abc":
        picture(tmp_path / "JPEGImages" / f"{stem}.png")
        voc(tmp_path / "Annotations" / f"{stem}.xml", [CORNERS])
    for name, content in lists.items():
        text(tmp_path / "ImageSets" / "Main" / f"{name}.txt", content)
    assert {split: sorted(names) for split, names in found(tmp_path).items()} == splits
    source = read_voc(tmp_path)
    assert source.problems.total() == source.lost.total() == left_out
    assert source.boxes_found.total() == 3


def test_sizes_and_corners_of_other_tools(tmp_path):
    """No size, a size of 0, corners as floats."""
    for stem, size in (("a", ""), ("b", "<size><width>0</width><height>0</height></size>")):
        picture(tmp_path / "images" / f"{stem}.png", 40, 20)
        text(
            tmp_path / "annotations" / f"{stem}.xml",
            f"<annotation>{size}<object><name>cat</name><bndbox><ymax>19.5</ymax><ymin>2.25</ymin><xmin>0.5</xmin>"
            "<xmax> 10.75 </xmax></bndbox></object></annotation>",
        )
    images = read_voc(tmp_path).splits["train"]
    assert [(image.width, image.height) for image in images] == [(40, 20)] * 2
    assert [box.xywh for image in images for box in image.boxes] == [(0.5, 2.25, 10.25, 17.25)] * 2
