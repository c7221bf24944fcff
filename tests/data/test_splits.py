"""Splits by name: those of the settings, and others in the data folder."""

import pytest

from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.settings import Config
from mlc_ext.detectors.data.layouts import LAYOUTS
from mlc_ext.detectors.data.splits import with_split


def data_folder(root, *splits):
    (root / "annotations").mkdir(parents=True)
    for images, name in splits:
        (root / images).mkdir()
        (root / "annotations" / f"instances_{name}.json").write_text("{}")
    return root


def test_val_and_train_are_those_of_the_settings():
    config = override(override(Config(), "data.data", "x"), "data.val_images", "y")
    assert with_split(config, None) is config
    assert with_split(config, "val") == config
    train = with_split(config, "train")
    assert train == override(config, "data.val_is_train", True)
    assert with_split(train, "val") == config


@pytest.mark.parametrize("folder", ["test", "test2017"])
def test_another_split_is_found_in_both_layouts(tmp_path, folder):
    root = data_folder(tmp_path / "data", ("val", "val"), (folder, folder))
    config = override(override(Config(), "data.data", str(root)), "data.val_is_train", True)
    found = with_split(config, "test").data
    assert found.val_images == str(root / folder) and not found.val_is_train
    assert found.val_annotations == str(root / "annotations" / f"instances_{folder}.json")


PLACES = [(layout, images) for layout in LAYOUTS if layout.has_splits for images in layout.images]


@pytest.mark.parametrize(("layout", "images"), PLACES)
@pytest.mark.parametrize(("written", "asked"), [("test", "test"), ("Test", "test"), ("minival-2.0", "minival-2.0")])
def test_every_layout_with_splits(tmp_path, layout, images, written, asked):
    folder, file = (tmp_path / path.format(split=written) for path in (images, layout.annotations))
    folder.mkdir(parents=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    found = with_split(override(Config(), "data.data", str(tmp_path)), asked).data
    assert (found.val_images, found.val_annotations) == (str(folder), str(file))


def test_a_split_replaces_a_part_and_named_files(tmp_path):
    root = data_folder(tmp_path / "data", ("train", "train"), ("test", "test"))
    config = override(override(Config(), "data.data", str(root)), "data.val_fraction", 0.5)
    config = override(override(config, "data.val_images", "x"), "data.val_annotations", "y")
    found = with_split(config, "test").data
    assert found.val_fraction is None and found.val_images == str(root / "test")


def test_a_folder_that_is_not_there(tmp_path):
    (tmp_path / "file.json").write_text("{}")
    for name, said in (
        ("nowhere", "does not exist"),
        ("file.json", "is a file: give its folder"),
        (".", "has file.js"),
    ):
        config = override(Config(), "data.data", str(tmp_path / name))
        with pytest.raises(FileNotFoundError, match=f"no split 'test' in {tmp_path / name}, which {said}"):
            with_split(config, "test")


def test_splits_that_are_not_there(tmp_path):
    root = data_folder(tmp_path / "data", ("val", "val"), ("test", "test"))
    (root / "annotations" / "instances_test.json").unlink()
    config = override(Config(), "data.data", str(root))
    with pytest.raises(FileNotFoundError, match="no split 'test' in .*; it has val$"):
        with_split(config, "test")
    with pytest.raises(ValueError, match="no split 'test': the data are not a folder"):
        with_split(Config(), "test")
    for name in ("", "../val", "a/b", "-x"):
        with pytest.raises(ValueError, match="--split must be the name of a split"):
            with_split(config, name)
