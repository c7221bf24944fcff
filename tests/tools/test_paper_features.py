"""The second part on cached maps: the steps are those of the whole detector with a fixed backbone."""

from __future__ import annotations

import pytest
import torch
from benchmark_modules import benchmark_modules
from small_runs import config_of
from whole_models import BATCHES, IMAGES, build

from mlc_ext import MLCConfig
from mlc_ext.detectors.config.overrides import differences, override
from mlc_ext.detectors.data.build import build_validation_set
from mlc_ext.detectors.data.generated.dataset import generate
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.models.targets import prepare_targets


@pytest.fixture(scope="module")
def paper():
    names = ("features", "labels", "data")
    return dict(zip(names, benchmark_modules(*(f"paper.{name}" for name in names)), strict=True))


@pytest.fixture(scope="module", params=["fcos_minus_r50_mlc", "rpn_r50_mlc"])
def runs(paper, request, tmp_path_factory):
    """A first part of two steps, with its maps; then, both from its checkpoint, a row trained on the images and one on
    the maps. The backbone's statistics are fixed, and nothing of it is trained."""
    folder = tmp_path_factory.mktemp("runs")
    root = generate(folder / "images", num_train=7, num_val=2, image_size=64)
    settings = {
        "data__data": str(root), "data__short_side": 80, "data__long_side": 80, "model__frozen_stages": 5,
        "schedule__clip_grad": None,
    }  # fmt: skip
    stem = config_of(request.param, folder / "stem", epochs=3, **settings)
    trainer = Trainer(stem, progress=False)
    trainer.run(2)
    paper["features"].ensure_cache(folder / "stem" / "checkpoint.pt", stem, folder / "maps")
    rows = {}
    for name in ("whole", "cached"):
        config = override(stem, "run.out", str(folder / name))
        rows[name] = (
            Trainer(config, progress=False)
            if name == "whole"
            else paper["features"].CachedTrainer(config, folder / "maps")
        )
        rows[name].resume(folder / "stem" / "checkpoint.pt", tuple(differences(stem, config)))
    return rows


def test_batches_and_maps(runs):
    """The same images in the same order, mirrored alike; the maps are those of the backbone to half precision."""
    whole, cached = runs["whole"], runs["cached"]
    mirrored = set()
    for epoch in (1, 2):
        for trainer in (whole, cached):
            trainer.loader.set_epoch(epoch)
        for position in range(2):
            (images, targets), (entries, same) = (t.loader.load(position) for t in (whole, cached))
            assert [t["image_id"] for t in targets] == [t["image_id"] for t in same]
            for a, b in zip(targets, same, strict=True):
                assert all(torch.equal(a[key], b[key]) for key in ("boxes", "labels", "iscrowd", "area"))
            assert [image.shape[1:] for image in images] == [entry.shape[1:] for entry in entries]
            mirrored |= {int(entry[0, 0, 0]) % 2 for entry in entries}
            with torch.no_grad():
                outputs, sizes, image_sizes = whole.model.eval().head_outputs(images)
                found, found_sizes, found_image_sizes = cached.model.train().head_outputs(entries)
            assert sizes == found_sizes and image_sizes == found_image_sizes
            for key, value in outputs.items():
                torch.testing.assert_close(found[key], value, rtol=2e-2, atol=2e-2)
    assert mirrored == {0, 1}


def test_a_run_on_maps_is_one_with_a_fixed_backbone(runs):
    before = {name: p.detach().clone() for name, p in runs["whole"].model.named_parameters()}
    metrics = {name: trainer.run() for name, trainer in runs.items()}
    losses = {
        name: torch.tensor([[entry[key] for key in ("classification", "bbox_regression")]
                            for entry in trainer.metrics.entries if "loss" in entry])
        for name, trainer in runs.items()
    }  # fmt: skip
    assert len(losses["cached"]) == 6
    torch.testing.assert_close(losses["cached"], losses["whole"], rtol=2e-2, atol=2e-2)
    for name, parameter in runs["cached"].model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("backbone."), name
    assert metrics["whole"].keys() == metrics["cached"].keys()


def test_images_of_several_sizes(paper, runs):
    """In a batch the maps of a smaller image are those that it has alone, with zeros around."""
    model = runs["cached"].model.train()
    strides = model.backbone.strides
    batch = torch.zeros((2, 1, 160, 128), dtype=torch.int32)
    batch[0, 0, 0, 0], batch[1, 0, 0, 0] = 3, 4
    maps = model.backbone(batch)
    for stride, level in zip(strides, maps, strict=True):
        assert level.shape[2:] == (160 // stride, 128 // stride)
        inside = level[..., : 96 // stride, : 96 // stride]
        assert (inside != 0).any() and level.abs().sum() == inside.abs().sum()
    alone = model.backbone(batch[:1, :, :96, :96])
    for level, one in zip(maps, alone, strict=True):
        assert torch.equal(level[:1, :, : one.shape[2], : one.shape[3]], one)


@pytest.mark.parametrize("task", ["cls", "loc"])
def test_labels_of_one_task(paper, task):
    model = build("fcos-", mlc=MLCConfig(start_epoch=1))
    targets = prepare_targets(BATCHES[0], 2, torch.device("cpu"), 3)
    outputs, sizes, _ = model.head_outputs(IMAGES)
    mutual, baseline = (model.label(outputs, sizes, targets, mutual=way).task for way in (True, False))
    paper["labels"].label_one_task(model, task)
    before = model.label(outputs, sizes, targets).task
    assert torch.equal(before.cls_labels, baseline.cls_labels) and before.thresholds is None
    model.set_epoch(1)
    found = model.label(outputs, sizes, targets).task
    for key in ("cls_labels", "cls_weights", "loc_positive", "loc_weights"):
        theirs = mutual if key.startswith(task) else baseline
        assert torch.equal(getattr(found, key), getattr(theirs, key)), key
    assert not torch.equal(mutual.cls_labels, baseline.cls_labels)
    assert not torch.equal(mutual.loc_positive, baseline.loc_positive)
    assert torch.equal(found.iou_positive, (found.cls_labels > 0) | found.loc_positive)


def test_generated_data_hold_back_other_images(paper, tmp_path):
    data = paper["data"].prepare("generated256", cache=tmp_path, counts={"num_train": 2, "num_val": 3})
    assert data.side == 256
    config = override(config_of("demo", tmp_path), "data.data", data.settings["data.data"])
    kept, held = (build_validation_set(c, tmp_path) for c in (config, data.with_split(config, "test")))
    assert len(kept) == len(held) == 3 and kept.label_to_category == held.label_to_category
    assert not torch.equal(kept[0][0], held[0][0])


def test_held_back_images_of_a_folder(paper, tmp_path):
    root = generate(tmp_path / "images", num_train=6, num_val=10, image_size=64)
    prepare = paper["data"].prepare
    data = prepare(str(root), held_back=0.4, classes=2, cache=tmp_path)
    config = override(config_of("demo", tmp_path), "data.data", str(root))
    for name, value in data.settings.items():
        config = override(config, name, value)
    kept, held = (build_validation_set(c, tmp_path) for c in (config, data.with_split(config, "test")))
    assert (len(kept), len(held)) == (6, 4) and not set(kept.image_ids) & set(held.image_ids)
    whole = build_validation_set(data.with_split(config, "all"), tmp_path)
    assert sorted(whole.image_ids) == sorted({*kept.image_ids, *held.image_ids}) and whole.num_classes == 2
    assert kept.num_classes == held.num_classes == 2
    assert prepare(str(root), held_back=0.4, classes=2, cache=tmp_path) == data  # the same images again
    assert prepare(str(root)).held_back == {}


def test_length_of_the_second_part(paper):
    epochs_for = paper["data"].epochs_for
    for steps, length in ((1000, 100), (1000, 26), (560, 63), (7, 7)):
        epochs = epochs_for(steps, length, 12)
        assert epochs * length * 7 / 19 >= steps > (epochs - 1) * length * 7 / 19
