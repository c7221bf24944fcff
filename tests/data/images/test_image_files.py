"""The nearest existing name is suggested for a file that is missing, by the data and by the programs."""

from __future__ import annotations

import pytest
from coco_files import box, entry, noise, write_coco

from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.images.files import NearNames, did_you_mean
from mlc_ext.detectors.data.paths import find_dataset

DISK = ["a b.png", "cafe\u0301.png", "img_0001.png", "x.jpg", "95.png", "train/one.png", "sub/12.png", "old/12.png"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("http://images.example.org/val/img_0001.png?size=big", "img_0001.png"),
        ("file:///data/x.jpg", "x.jpg"),
        ("a%20b.png", "a b.png"),
        ("https://example.org/a%20b.png", "a b.png"),
        ("img_0001", "img_0001.png"),
        ("img_0001.jpg", "img_0001.png"),
        ("IMG_0001.PNG", "img_0001.png"),
        ("x.JPEG", "x.jpg"),
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("CAF%C3%89.PNG", "cafe\u0301.png"),
        ("train/img_0001.png", "img_0001.png"),
        ("train\\img_0001.png", "img_0001.png"),
        ("./x.jpg", "x.jpg"),
        (" x.jpg\n", "x.jpg"),
        ("imge_0001.png", "img_0001.png"),
        ("one.png", "train/one.png"),
        ("val/ONE.jpg", "train/one.png"),
        ("trian/one.png", "train/one.png"),
        ("sub/12.jpg", "sub/12.png"),
        ("12.png", None),  # in two folders
        ("img_0010.png", None),  # another image
        ("195.png", None),
        ("195.jpg", None),
        ("sub/13.png", None),
        ("zebra.png", None),
        ("", None),
        ("http://[bad", None),
        ("%ff%00", None),
    ],
)
def test_near_names(name, near):
    assert NearNames(DISK).find(name) == near


def test_missing_images_are_reported_with_the_name_on_disk(tmp_path):
    paths = write_coco(tmp_path, [box(1)], images=[entry(1, "1.PNG"), entry(2)], files=False)
    noise().save(tmp_path / "1.png")
    with pytest.raises(
        FileNotFoundError, match=r"2 of 2 images are not in .*: '1.PNG'; did you mean '1.png'\?, '2.png'"
    ):
        CocoDetection(*paths)
    noise().save(tmp_path / "2.png")
    dataset = CocoDetection(*paths)
    assert dataset.findings.examples["missing images"] == "'1.PNG'; did you mean '1.png'?"
    with pytest.raises(FileNotFoundError, match="1 of 2 .* did you mean '1.png'"):
        CocoDetection(*paths, strict=True)


def test_names_in_subfolders(tmp_path):
    names = ["sub/a.PNG", "sub/deep/b.jpg", "c.png"]
    paths = write_coco(tmp_path, [box(1)], images=[entry(k, name) for k, name in enumerate(names, 1)], files=False)
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    for name in ("sub/a.png", "sub/deep/b.png", "c.png"):
        noise().save(tmp_path / name)
    match = r"2 of 3 .*: 'sub/a.PNG'; did you mean 'sub/a.png'\?, 'sub/deep/b.jpg'; did you mean 'sub/deep/b.png'\?$"
    with pytest.raises(FileNotFoundError, match=match):
        CocoDetection(*paths, strict=True)


def test_names_are_indexed_only_if_one_is_missing(tmp_path, monkeypatch):
    paths = write_coco(tmp_path, [box(1)])
    monkeypatch.setattr(NearNames, "__init__", lambda self, names: pytest.fail("indexed"))
    assert len(CocoDetection(*paths, strict=True)) == 3


def test_paths(tmp_path, monkeypatch):
    (tmp_path / "data" / "Annotations").mkdir(parents=True)
    (tmp_path / "data" / "train.json").write_text("{}")
    assert did_you_mean(tmp_path / "data" / "train.jsn") == f"; did you mean '{tmp_path}/data/train.json'?"
    assert did_you_mean(tmp_path / "dta" / "train.json") == f"; did you mean '{tmp_path}/data/train.json'?"
    assert did_you_mean(tmp_path / "dta" / "other.json") == ""  # only a path that exists is named
    file = tmp_path / "data" / "train.json"
    monkeypatch.setenv("HOME", str(tmp_path))
    url = f"file://{str(file).replace('train', '%74rain')}"
    for read in ("~/data/train.json", "$HOME/data/train.json", f"file://{file}", url, f"'{file}'", f"{file} "):
        assert did_you_mean(read) == f"; did you mean '{file}'?"
    for nothing in (tmp_path / "data", tmp_path / "zzz", tmp_path / ("x" * 5000), "a\0b", file / "x"):
        assert did_you_mean(nothing) == ""


def test_data_sets_and_their_files(tmp_path):
    folder, path = write_coco(tmp_path / "images", [box(1)])
    for wrong in ((tmp_path / "image", path), (folder, folder / "instance.json")):
        with pytest.raises(FileNotFoundError, match="did you mean '.*(images|instances.json)'"):
            CocoDetection(*wrong)
    (tmp_path / "coco").mkdir()
    with pytest.raises(FileNotFoundError, match=r"data set not found; did you mean '.*coco'\?; looked for"):
        find_dataset(tmp_path / "COCO")
