"""data.val_fraction: a part of the training images held out by a hash of their file names."""

from __future__ import annotations

import json
import logging

import pytest
from coco_files import box, entry, write_coco
from PIL import Image

from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.settings import Config
from mlc_ext.detectors.data.build import build_datasets, build_training_set, build_validation_set
from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.coco.part import Part
from mlc_ext.detectors.data.splits import with_split

IDS = range(1, 41)


def data(root, ids=IDS, objects=None):
    """A data set of one JSON; ``objects`` are the images with an object."""
    images = [entry(key) for key in ids]
    boxes = [box(key) | {"id": key} for key in (ids if objects is None else objects)]
    write_coco(root, boxes, images=images, files=False)
    (root / "images").mkdir(exist_ok=True)
    for key in ids:
        Image.new("L", (40, 30)).save(root / "images" / f"{key}.png")
    return root


def configured(root, fraction=0.25, **settings) -> Config:
    config = override(override(Config(), "data.data", str(root)), "data.val_fraction", fraction)
    for name, value in settings.items():
        config = override(config, f"data.{name}", value)
    return config


def test_the_choice_is_fixed():
    """Written down: another choice would change the validation images of runs that were made."""
    assert [key for key in range(30) if f"{key}.png" in Part(0.2, 0, True)] == [4, 11, 14, 19, 26]


def held(fraction, seed=0, count=99):
    return {key for key in range(count) if f"{key}.png" in Part(fraction, seed, True)}


def test_the_parts_divide_the_ids():
    for fraction in (0.05, 0.2, 0.5, 0.95):
        chosen = held(fraction, 3, 20_000)
        assert chosen == {key for key in range(20_000) if f"{key}.png" not in Part(fraction, 3, False)}
        assert abs(len(chosen) / 20_000 - fraction) < 4 * (fraction * (1 - fraction) / 20_000) ** 0.5
    assert held(0.2) < held(0.4) and held(0.2) != held(0.2, 1)


def test_every_image_is_in_one_of_both_sets(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        train, val = build_datasets(configured(data(tmp_path)), tmp_path)
    assert sorted(train.image_ids + val.image_ids) == list(IDS) and 2 < len(val) < 20
    assert (train.num_objects, val.num_objects) == (len(train), len(val))
    line = "held out by data.val_fraction=0.25, data.val_seed=0"
    assert f"validation images: {len(val)}, {line}" in caplog.text
    assert f"({line}): {len(val)} images" in val.summary() and "without those held out" in train.summary()
    again = build_validation_set(configured(tmp_path), tmp_path)
    assert again.image_ids == val.image_ids
    other = build_validation_set(configured(tmp_path, val_seed=1), tmp_path)
    assert other.image_ids != val.image_ids
    assert build_validation_set(override(configured(tmp_path), "run.seed", 1), tmp_path).image_ids == val.image_ids


def test_added_images_move_no_other(tmp_path):
    """Also if the export gives all images new ids."""
    before = build_validation_set(configured(data(tmp_path)), tmp_path)
    more = data(tmp_path, range(1, 81))
    path = more / "instances.json"
    content = json.loads(path.read_text())
    for each in content["images"]:
        each["id"] = 1000 - each["id"]
    for each in content["annotations"]:
        each["image_id"] = 1000 - each["image_id"]
    path.write_text(json.dumps(content))
    after = build_validation_set(configured(more), tmp_path)
    names = [{dataset.image_path(k).name for k in range(len(dataset))} for dataset in (before, after)]
    assert {name for name in names[1] if int(name[:-4]) in IDS} == names[0] and len(names[1]) > len(names[0])


def test_a_limit_is_of_the_training_part(tmp_path):
    train, val = build_datasets(configured(data(tmp_path), limit_train=5), tmp_path)
    assert len(train) == 5 and not set(train.image_ids) & set(val.image_ids) and len(val) > 2


def test_findings_are_of_the_part(tmp_path):
    """Images under two ids are one image; annotations of the other part are not counted as lost."""
    data(tmp_path)
    path = tmp_path / "instances.json"
    content = json.loads(path.read_text())
    content["images"].append(entry(1000, "1.png"))
    content["annotations"].append(box(1000, (1, 1, 5, 5)) | {"id": 1000})
    path.write_text(json.dumps(content))
    parts = [CocoDetection(tmp_path / "images", path, part=Part(0.25, 0, held_out)) for held_out in (True, False)]
    assert sum(each.num_boxes for each in parts) == len(IDS) + 1
    assert sorted(parts[0].image_ids + parts[1].image_ids) == list(IDS)
    assert not any(each.findings.dropped for each in parts)


@pytest.mark.parametrize("held_out", [True, False])
def test_a_side_without_objects_is_refused(tmp_path, held_out):
    chosen = [key for key in IDS if f"{key}.png" not in Part(0.25, 0, held_out)]
    message = "no object to evaluate on" if held_out else "nothing to learn"
    with pytest.raises(ValueError, match=rf"{message}.*data\.val_fraction=0\.25, data\.val_seed=0"):
        build_datasets(configured(data(tmp_path, objects=chosen)), tmp_path)


def test_a_side_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"held out by data.val_fraction=0.0001, .*\): none of its 40 images"):
        build_datasets(configured(data(tmp_path), 0.0001), tmp_path)


def test_a_validation_split_is_not_ignored(tmp_path):
    root = tmp_path / "data"
    for split in ("train", "val"):
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        _, path = write_coco(root / split, [box(1)])
        path.rename(root / "annotations" / f"instances_{split}.json")
    with pytest.raises(ValueError, match=r"data\.val_fraction=0\.25 is for .* there is one: .*instances_val"):
        build_datasets(configured(root), tmp_path)
    alone = configured(root / "train", train_images=root / "train")  # a JSON in another place, no validation split
    explicit = {
        f"{split}_{kind}": path
        for split in ("train", "val")
        for kind, path in (
            ("images", root / split), ("annotations", root / "annotations" / f"instances_{split}.json")
        )
    }  # fmt: skip
    with pytest.raises(ValueError, match="there is one"):
        build_datasets(configured(root, **explicit), tmp_path)
    with pytest.raises(FileNotFoundError, match="data set not found"):
        build_datasets(alone, tmp_path)


def test_settings_that_exclude_each_other(tmp_path):
    """Each may be set first: they are compared where they are used."""
    root = data(tmp_path / "data")
    both = configured(root, val_is_train=True)
    with pytest.raises(ValueError, match="data.val_is_train evaluates on the training images"):
        build_datasets(both, tmp_path)
    assert build_validation_set(override(both, "data.val_fraction", None), tmp_path).image_ids == list(IDS)
    assert len(build_validation_set(override(both, "data.val_is_train", False), tmp_path)) < len(IDS)
    for name in ("val_images", "val_annotations"):  # also a path that is not there
        with pytest.raises(ValueError, match="there is one: absent"):
            build_datasets(configured(root, **{name: "absent"}), tmp_path)


def test_splits_by_name(tmp_path):
    """train and val are the two parts of the images; another split has no part."""
    root = data(tmp_path / "data")
    _, written = write_coco(root / "test", [box(key) for key in (1, 2)], images=[entry(key) for key in (1, 2)])
    written.rename(root / "test.json")
    (root / "instances.json").rename(root / "train.json")
    config = configured(root)
    train, val, test = (build_validation_set(with_split(config, split), tmp_path) for split in ("train", "val", "test"))
    assert sorted(train.image_ids + val.image_ids) == list(IDS) and 0 < len(val) < len(train)
    assert train.image_ids == build_training_set(config, tmp_path).image_ids
    assert test.image_ids == [1, 2]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2])
def test_a_fraction_is_between_0_and_1(fraction):
    with pytest.raises(ValueError, match=r"data.val_fraction must be in \(0, 1\) or None"):
        override(Config(), "data.val_fraction", fraction)
