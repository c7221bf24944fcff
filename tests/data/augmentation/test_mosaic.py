"""Mosaics: four images whose boxes follow their pixels, off at the end, the same for any number of workers."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from painted_images import bounds, boxes_in, painted, target_of
from small_runs import assert_same, config_of, losses

from mlc_ext.detectors.config.settings import DataConfig
from mlc_ext.detectors.data.augmentation.mosaic import FILL, Mosaic
from mlc_ext.detectors.data.augmentation.pipeline import training_transforms, with_mosaics
from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.generated.dataset import generate
from mlc_ext.detectors.data.loading.loader import build_loader
from mlc_ext.detectors.engine.trainer import Trainer


class Images:
    """Black images, the k-th with at most one object, of label k + 1; that of ``white`` is white."""

    def __init__(self, sizes, boxes, white: int | None = None):
        self.items, self.used = [], []
        for k, (size, box) in enumerate(zip(sizes, boxes, strict=True)):
            target = target_of([box] if box else []) | {"image_id": k}
            self.items.append((painted(size, box if k == white else None), target | {"labels": target["labels"] + k}))

    def __len__(self):
        return len(self.items)

    def untransformed(self, index):
        self.used.append(index)
        return self.items[index]

    __getitem__ = untransformed


@given(st.data(), st.integers(24, 80), st.integers(24, 80), st.integers(0, 2**31), st.booleans())
def test_boxes_follow_the_pixels(data, short, long, seed, flip):
    sizes = data.draw(st.lists(st.tuples(st.integers(20, 90), st.integers(20, 90)), min_size=4, max_size=4))
    boxes = [data.draw(st.none() | boxes_in(*size, least=4)) for size in sizes]
    settings = DataConfig(short_side=short, long_side=long, mosaic=1.0, flip=float(flip), min_visible=0.0)

    def mosaic(white=None):
        torch.manual_seed(seed)
        images = Images(sizes, boxes, white)
        return *with_mosaics(images, settings, 10)[0], images.used

    image, target, used = mosaic()
    low, high = sorted((short, long))
    assert image.shape[-2:] == ((high, low) if sizes[0][0] > sizes[0][1] else (low, high))
    assert target["image_id"] == 0 and image.dtype == torch.uint8 and len(target["boxes"]) + target["cut"] <= 4
    for label, box in zip(target["labels"].tolist(), target["boxes"], strict=True):
        if used.count(label - 1) == 1 and (box[2:] - box[:2]).min() >= 2:
            assert np.abs(np.array(bounds(mosaic(label - 1)[0])) - box.numpy()).max() <= 1


def test_parts_meet_at_a_point_and_gaps_are_filled():
    images = Images([(40, 40)] * 4, [[0, 0, 40, 40]] * 4)
    torch.manual_seed(0)
    image, target = with_mosaics(images, DataConfig(short_side=64, long_side=64, mosaic=1.0, flip=0.0), 1)[3]
    assert len(target["boxes"]) == 4
    fill = (image == torch.tensor(FILL, dtype=torch.uint8)[:, None, None]).all(0)
    covered = torch.zeros_like(fill)
    for x1, y1, x2, y2 in target["boxes"].round().int().tolist():
        covered[y1:y2, x1:x2] = True
    assert torch.equal(fill, ~covered)
    ends, starts = target["boxes"][0, 2:].tolist(), target["boxes"][3, :2].tolist()
    assert ends == starts == [target["boxes"][1, 0], target["boxes"][2, 1]]


def test_a_share_of_the_images_and_none_at_the_end():
    images = Images([(40, 40)] * 4, [None] * 4)
    mosaics = with_mosaics(images, DataConfig(short_side=64, long_side=64, mosaic=0.3, mosaic_end=0.8), 10)
    assert [mosaics.of_epoch(epoch) is mosaics for epoch in range(10)] == [True] * 8 + [False] * 2
    assert mosaics.of_epoch(8) is images
    torch.manual_seed(0)
    made = [mosaics[k % 4][0].shape[-1] == 64 for k in range(1000)]
    assert np.mean(made) == pytest.approx(0.3, abs=0.05)
    assert with_mosaics(images, DataConfig(), 10) is images


@pytest.mark.parametrize(
    ("end", "epochs", "expected"),
    [(0.85, 10, 8), (0.85, 40, 34), (0.07, 100, 7), (0.29, 100, 29), (0.85, 1, 0), (1.0, 3, 3), (0.0, 3, 0)],
)
def test_mosaics_end_with_a_whole_epoch(end, epochs, expected):
    """The last epochs are without them, in short trainings too; 0.07 * 100 is above 7, and 0.29 * 100 below 29."""
    mosaics = with_mosaics(Images([], []), DataConfig(mosaic=0.5, mosaic_end=end), epochs)
    assert sum(mosaics.of_epoch(epoch) is mosaics for epoch in range(epochs)) == expected


def test_an_object_that_fills_its_image_is_never_background():
    """A tile of a mosaic may show a small part of it: the tile is an object or ignored."""
    images = Images([(64, 64)] * 4, [[0, 0, 64, 64]] * 4)
    data = DataConfig(short_side=64, long_side=64, mosaic=1.0, scale_jitter=(1.0, 4.0))
    ignored = 0
    for seed in range(30):
        torch.manual_seed(seed)
        _, target = with_mosaics(images, data, 10)[0]
        assert float(target["area"].sum()) == pytest.approx(64 * 64)
        ignored += int(target["iscrowd"].sum())
        assert target["cut"] == target["iscrowd"].sum()
    assert 0 < ignored < 120


def test_a_mosaic_of_one_pixel_is_refused():
    with pytest.raises(ValueError, match="at least 2 pixels a side, got 1 x 64"):
        with_mosaics(Images([], []), DataConfig(short_side=1, long_side=64, mosaic=0.5), 1)


ALL = {"scale_jitter": (0.3, 1.8), "photometric": 0.5, "mosaic": 0.5, "mosaic_end": 0.5, "short_side": 48,
       "long_side": 64}  # fmt: skip


def batches(dataset: Mosaic, workers: int, **options) -> list:
    loader = build_loader(dataset, 3, shuffle=True, num_workers=workers, seed=5, **options)
    found = []
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        found += list(loader)
        found.append(loader.cut)
    return found


def test_workers_and_ranks_change_nothing(tmp_path, generated):
    mosaics = with_mosaics(generated, DataConfig(**ALL), 2)
    one, plain = batches(mosaics, 0), batches(generated, 0)
    assert_same(one, batches(mosaics, 2))
    length = len(one) // 2
    assert_same(one[length:], plain[length:])  # the second epoch has no mosaics
    with pytest.raises(AssertionError):
        assert_same(one[:length], plain[:length])
    ranks = [batches(mosaics, 0, rank=rank, world_size=2) for rank in (0, 1)]
    for whole, first, second in zip(one, *ranks, strict=True):
        if isinstance(whole, int):
            assert whole == first + second
            continue
        assert_same(whole[0], first[0] + second[0])
        assert_same(whole[1], first[1] + second[1])


@pytest.fixture(scope="module")
def generated(tmp_path_factory):

    root = generate(tmp_path_factory.mktemp("data") / "set", num_train=8, num_val=2, image_size=64)
    return CocoDetection(
        root / "train", root / "annotations" / "instances_train.json", transforms=training_transforms(DataConfig(**ALL))
    )


def test_a_broken_image_is_replaced_and_reported(tmp_path, generated):
    folder, dataset = tmp_path / "copy", generated
    folder.mkdir()
    for path in dataset.image_dir.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    broken = CocoDetection(folder, dataset.annotation_file, transforms=dataset.transforms)
    broken.image_path(2).write_bytes(b"no image")
    loader = build_loader(with_mosaics(broken, DataConfig(**ALL | {"mosaic": 1.0}), 2), 4, shuffle=False)
    for _, targets in loader:
        assert all("skipped" not in target and "cut" not in target for target in targets)
    assert list(loader.dataset.findings.broken) == [broken.image_path(2).name]


def test_a_resumed_run_is_the_same(tmp_path, monkeypatch, caplog):
    """With everything on, within an epoch of mosaics and after it; the boxes left out are logged."""
    monkeypatch.chdir(tmp_path)
    options = {f"data__{name}": value for name, value in ALL.items()} | {
        "run__save_every": 1,
        "run__keep_checkpoints": 9,
    }
    whole = config_of("fcos_minus_r50_mlc", tmp_path / "whole", **options)
    with caplog.at_level(logging.INFO):
        Trainer(whole, progress=False).run()
    assert "boxes removed or ignored in the crops and mosaics of this epoch" in caplog.text
    for age in (1, 3):
        out = tmp_path / f"resumed{age}"
        again = Trainer(config_of("fcos_minus_r50_mlc", out, **options), progress=False)
        again.resume(tmp_path / "whole" / f"checkpoint.{age}.pt")
        again.run()
        assert_same(losses(out), losses(tmp_path / "whole"))
