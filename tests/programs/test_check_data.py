"""mlc-ext data: what it prints of a data set, and its picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from coco_files import box, entry
from PIL import Image

from mlc_ext.detectors.check_data import main


def write(root: Path, rows, *, split="train", images=4, size=(400, 300), names=("cat", "dog")) -> None:
    """A data set in the layout of Roboflow; rows: (image, category, x, y, w, h)."""
    (root / split).mkdir(parents=True, exist_ok=True)
    for key in range(1, images + 1):
        Image.new("RGB", size, (key, key, key)).save(root / split / f"{split}{key}.png")
    content = {
        "images": [entry(key, f"{split}{key}.png", *size) for key in range(1, images + 1)],
        "annotations": [
            box(row[0], row[2:], row[1]) | {"id": k, "area": row[4] * row[5]} for k, row in enumerate(rows, 1)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
    }
    (root / split / "_annotations.coco.json").write_text(json.dumps(content))


@pytest.fixture
def program(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main([str(tmp_path / "data"), "--quiet", *arguments])
        return code, *capsys.readouterr()

    return run


MANY = [(1 + k % 3, 0, 10 + k, 10, 50, 60) for k in range(20)]


def test_counts_and_layout(tmp_path, program):
    """Areas: 31 x 33 = 1023 is small, 32 x 32 and 95.9 x 96 are medium, 96 x 96 is large."""
    rows = [(1, 0, 0, 0, 31, 33), (1, 0, 0, 0, 32, 32), (2, 0, 5, 5, 95.9, 96), (2, 1, 5, 5, 96, 96)]
    rows += [(9, 1, 1, 1, 9, 9), (3, 1, 1, 1, 0, 9)]
    write(tmp_path / "data", rows)
    code, out, err = program()
    assert code == 0 and not err
    root = tmp_path / "data" / "train"
    assert out.startswith(f"train:\n  {root}/_annotations.coco.json, images in {root} (Roboflow COCO)\n")
    assert "\n  4 images of 400..400 x 300..300 pixels, 2 without objects; 4 objects, 0 crowds\n" in out
    table = [line.split() for line in out.splitlines()[3:7]]
    assert table == [["class", "objects", "images", "small", "medium", "large"], ["cat", "3", "2", "1", "2", "0"],
                     ["dog", "1", "1", "0", "0", "1"], ["all", "4", "2", "1", "2", "1"]]  # fmt: skip
    assert "\n    1 annotations of unknown images, first annotations[4] has image_id 9\n" in out
    assert "\n    1 boxes without area, first annotations[5] has bbox [1, 1, 0, 9]\n" in out
    assert "\nwarning: no val split: train with --set data.val_fraction=0.2\n" in out
    assert out.endswith(f"next: mlc-ext train --data {tmp_path}/data --set data.val_fraction=0.2\n")


def test_a_sound_data_set_has_no_warning(tmp_path, program):
    rows = [*MANY, *((image, 1, *place) for image, _, *place in MANY)]
    write(tmp_path / "data", rows)
    write(tmp_path / "data", rows, split="valid")
    code, out, err = program()
    assert code == 0 and not err and "warning" not in out and out.count("no problems") == 2
    assert out.endswith(f"next: mlc-ext train --data {tmp_path}/data\n")


@pytest.mark.parametrize(
    ("rows", "settings", "warning"),
    [
        (MANY, [], "train: categories without objects: 1 of 2: dog"),
        ([*MANY, (1, 1, 5, 5, 40, 40)], [], "train: categories with fewer than 10 objects: dog (1)"),
        ([*MANY * 5, (1, 1, 5, 5, 40, 40)], [], "train: imbalance: 100 objects of cat, 1 of dog"),
        ([(1, 0, 9, 9, 4, 100)] * 5, [], None),  # at 800 / 300, a side of 4 is 10.7
        (
            [(1, 0, 9, 9, 4, 100)] * 5,
            ["--set", "data.short_side=500"],
            "train: tiny boxes: 100% have a side below 8 pixels",
        ),
        ([(1, 0, 9, 9, 2.9, 100)] * 5, [], "train: tiny boxes: 100% have a side below 8 pixels"),
        ([(1 + k % 4, 0, 100, 80, 200, 180) for k in range(20)], [], None),
        ([(1 + k % 4, 0, 0.5, 0.5, 0.2, 0.2) for k in range(20)], [], "the boxes are within 0..1: fractions of the"),
        ([(1 + k % 4, 0, 250, 180, 390, 290) for k in range(20)], [], "100% fit as x1, y1, x2, y2"),
    ],
)
def test_warnings(tmp_path, program, rows, settings, warning):
    write(tmp_path / "data", rows)
    code, out, _ = program("--fast", *settings)
    warnings = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert code == 0
    if warning is None:
        assert not any("tiny" in line or "_annotations" in line for line in warnings)
    else:
        assert any(warning in line for line in warnings), out


def test_both_splits_are_compared(tmp_path, program):
    write(tmp_path / "data", MANY)
    write(tmp_path / "data", MANY, split="valid", names=("cat", "bird"))
    for path in (tmp_path / "data" / "valid").glob("*.png"):
        path.unlink()
        path.symlink_to(tmp_path / "data" / "train" / path.name.replace("valid", "train"))
    _, out, _ = program()
    assert "\nwarning: 4 images are in both splits, first " in out
    assert "only in" in out and "'bird' (id 1)" in out and "'dog' (id 1)" in out


def test_a_named_split_that_is_not_there_is_refused(tmp_path, program):
    write(tmp_path / "data", MANY)
    code, out, err = program("--set", "data.val_annotations=absent.json", "--set", "data.val_images=.")
    assert code == 2 and not out and "\n  val: . (there) with absent.json (absent)\n" in err


def test_broken_images_are_counted(tmp_path, program):
    write(tmp_path / "data", MANY)
    (tmp_path / "data" / "train" / "train2.png").write_bytes(b"no image")
    code, out, err = program()
    assert code == 0 and "\n    1 broken images\n" in out and "\n  3 images of" in out and "train2.png" in err
    assert "broken images" not in program("--fast")[1]


def test_the_fraction_is_shown(tmp_path, program):
    write(tmp_path / "data", [(key, 0, 5, 5, 50, 50) for key in range(1, 31)], images=30)
    code, out, _ = program("--set", "data.val_fraction=0.2")
    assert code == 0 and "\nval:\n" in out and "(held out by data.val_fraction=0.2, data.val_seed=0)" in out
    assert out.endswith(" --set data.val_fraction=0.2\n") and "no val split" not in out


def test_the_settings_of_the_training_are_used(tmp_path, program):
    write(tmp_path / "data", [(1, 0, 5, 5, 50, 50)])
    code, out, _ = program("--set", "data.val_is_train=true", "--set", "data.limit_train=3")
    assert code == 0 and "\n  3 images of" in out and "no val split" not in out
    assert "\nwarning: validation is on the training images (data.val_is_train)\n" in out
    assert out.endswith(" --set data.val_is_train=true --set data.limit_train=3\n")
    _, out, _ = program("--set", "data.keep_empty=false")
    assert "\n  1 images of" in out and "\n    3 images without boxes\n" in out


def test_the_limit_of_validation_images_is_used(tmp_path, program):
    for split in ("train", "valid"):
        write(tmp_path / "data", MANY, split=split)
    code, out, _ = program("--set", "data.limit_val=2")
    assert code == 0 and "\n  2 images of" in out.partition("\nval:\n")[2]
    assert "\n  4 images of" in out.partition("\nval:\n")[0]


def test_the_picture_has_the_boxes(tmp_path, program):
    write(tmp_path / "data", [(1, 0, 100, 60, 200, 180)], images=1)
    assert program("--out", "sheet.png")[0] == 0
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    colored = np.argwhere(np.ptp(sheet, axis=2) > 100)
    scale = 640 / 800  # 400 x 300 drawn at twice the size, then 640 wide
    top, left = colored.min(0)
    bottom, right = colored.max(0)
    assert abs(left - (6 + 200 * scale)) <= 2 and abs(right - (6 + 600 * scale)) <= 3
    assert abs(bottom - (6 + 480 * scale)) <= 3 and top <= 6 + 120 * scale  # the name is above the box


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.jpg"], "--out must be a .png file, got x.jpg"),
        (["--images", "0"], "--images must be at least 1"),
        (["--set", "data.x=1"], "unknown setting 'data.x'"),
        ([], "data set not found; looked for\n  COCO format: "),
    ],
)
def test_mistakes(tmp_path, program, arguments, message):
    (tmp_path / "data").mkdir()
    code, out, err = program(*arguments)
    assert code == 2 and not out and err.startswith(f"check_data.py: {message}")
