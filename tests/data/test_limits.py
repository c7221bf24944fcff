"""Limits on the number of images, of training and of validation."""

import json
import shutil

import pytest
from small_runs import config_of

from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.data.build import build_datasets, build_validation_set
from mlc_ext.detectors.data.generated.dataset import generate
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.runs.load import load_for_evaluation


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("limits") / "data", num_train=6, num_val=5, image_size=64)


@pytest.mark.parametrize(
    ("settings", "train", "val"),
    [
        ({}, 6, 5),
        ({"data__limit_val": 2}, 6, 2),
        ({"data__limit_val": 99}, 6, 5),
        ({"data__limit_train": 3}, 3, 5),
        ({"data__limit_train": 3, "data__val_is_train": True}, 3, 3),
        ({"data__limit_train": 3, "data__val_is_train": True, "data__limit_val": 2}, 3, 2),
        ({"data__limit_train": 3, "data__val_is_train": True, "data__limit_val": 4}, 3, 3),
    ],
)
def test_the_first_images_by_id(data, tmp_path, settings, train, val):
    config = config_of("fcos_minus_r50", tmp_path, data__data=str(data), **settings)
    found = build_datasets(config, tmp_path)
    assert [len(each) for each in found] == [train, val]
    source = override(config_of("fcos_minus_r50", tmp_path, data__data=str(data)), "data.val_is_train",
                      settings.get("data__val_is_train", False))  # fmt: skip
    assert found[1].image_ids == sorted(build_validation_set(source, tmp_path).image_ids)[:val]


def test_first_images_without_objects_are_refused(data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    path = root / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    first = min(image["id"] for image in content["images"])
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] != first]
    path.write_text(json.dumps(content))
    config = config_of("fcos_minus_r50", tmp_path, data__data=str(root), data__limit_val=1)
    with pytest.raises(ValueError, match=r"no object to evaluate on in the first 1 images by id .* \(data.limit_val;"):
        build_datasets(config, tmp_path)
    assert len(build_datasets(override(config, "data.limit_val", 2), tmp_path)[1]) == 2


def test_in_a_run_and_its_evaluation(data, tmp_path):
    """Another data set is evaluated on as a whole, or as --set says."""
    config = config_of("fcos_minus_r50", tmp_path / "run", 1, data__data=str(data), data__limit_val=2)
    trainer = Trainer(config, progress=False)
    trainer.run()
    assert len(trainer.val_set) == 2
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    assert len(load_for_evaluation(checkpoint, device="cpu").dataset) == 2
    assert len(load_for_evaluation(checkpoint, device="cpu", settings=["data.limit_val=none"]).dataset) == 5
    assert len(load_for_evaluation(checkpoint, str(data), "cpu").dataset) == 5
    assert len(load_for_evaluation(checkpoint, str(data), "cpu", settings=["data.limit_val=3"]).dataset) == 3
