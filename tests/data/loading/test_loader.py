"""Collation, padding, aspect-ratio batches, and a loader whose order depends only on seed and epoch."""

from __future__ import annotations

import logging
import random

import numpy as np
import pytest
import torch
from coco_files import box, encoded, entry, write_coco
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Dataset

from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.loading.loader import build_loader, collate
from mlc_ext.detectors.data.loading.sampler import AspectRatioBatchSampler
from mlc_ext.detectors.data.transforms import RandomHorizontalFlip
from mlc_ext.detectors.models.batching import batch_images


class Toy(Dataset):
    """Item k: an image of the gray level k and a box; portrait where k % 3 == 0. Flips half of them."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def aspect_ratios(self) -> np.ndarray:
        return np.where(np.arange(self.count) % 3 == 0, 1.5, 0.75)

    def __getitem__(self, index: int):
        height, width = (24, 16) if index % 3 == 0 else (18, 24)
        image = torch.full((3, height, width), index, dtype=torch.uint8)
        draws = (float(np.random.uniform()), random.random())
        target = {"boxes": torch.tensor([[0.0, 0.0, 4.0, 4.0]]), "image_id": index, "draws": draws}
        return RandomHorizontalFlip(0.5)(image, target)


def seen(loader) -> list[list[tuple]]:
    """Image ids, flipped boxes and random numbers, by batch."""
    return [[(t["image_id"], t["boxes"][0, 0].item(), t["draws"]) for t in targets] for _, targets in loader]


def test_collate_keeps_sizes_and_bytes():
    images, targets = collate([Toy(4)[0], Toy(4)[1]])
    assert [tuple(image.shape) for image in images] == [(3, 24, 16), (3, 18, 24)]
    assert all(image.dtype == torch.uint8 for image in images) and [t["image_id"] for t in targets] == [0, 1]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("divisor", [1, 32])
def test_batch_images(dtype, divisor):
    images = [torch.full((3, 20, 33), 7, dtype=dtype), torch.full((3, 32, 10), 9, dtype=dtype)]
    batch, sizes = batch_images(images, divisor)
    assert batch.dtype == dtype and batch.shape == ((2, 3, 32, 64) if divisor == 32 else (2, 3, 32, 33))
    assert sizes == [(20, 33), (32, 10)]
    for slot, image, (h, w) in zip(batch, images, sizes, strict=True):
        assert torch.equal(slot[:, :h, :w], image)
        assert slot[:, h:].eq(0).all() and slot[:, :, w:].eq(0).all()


def test_batch_images_refuses():
    image = torch.zeros(3, 4, 4)
    for images, message in (
        ([], "at least one"),
        ([image, image.byte()], "uint8"),
        ([image[0]], r"\(4, 4\)"),
        ([image, torch.zeros(1, 4, 4)], r"\(1, 4, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            batch_images(images)
    with pytest.raises(ValueError, match="got 0"):
        batch_images([image], 0)


@settings(max_examples=150, deadline=None)
@given(
    ratios=st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=1, max_size=40),
    batch_size=st.integers(1, 7),
    shuffle=st.booleans(),
    world_size=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_sampler_properties(ratios, batch_size, shuffle, world_size, epoch):
    def sampler(rank: int) -> AspectRatioBatchSampler:
        made = AspectRatioBatchSampler(
            np.array(ratios),
            batch_size,
            shuffle=shuffle,
            rank=rank,
            world_size=world_size,
        )
        made.set_epoch(epoch)
        return made

    if batch_size < world_size:
        with pytest.raises(ValueError, match="without an image"):
            sampler(0)
        return
    ranks = [list(sampler(rank)) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {len(sampler(0))}  # no rank waits for another
    alone = AspectRatioBatchSampler(np.array(ratios), batch_size, shuffle=shuffle)
    alone.set_epoch(epoch)
    batches = list(alone)
    for batch, shares in zip(batches, zip(*ranks, strict=True), strict=True):
        sizes = [len(part) for part in shares]
        assert 1 <= min(sizes) and max(sizes) <= min(sizes) + 1
        together = [index for part in shares for index in part]
        assert together[: len(batch)] == batch and set(together) == set(batch)
        assert len(together) == max(len(batch), world_size)
    indices = [index for batch in batches for index in batch]
    assert len(set(indices)) == len(indices)
    assert all(len(batch) <= batch_size for batch in batches)
    assert sorted(indices) == list(range(len(ratios)))
    assert len(batches) == 1 or 2 * min(map(len, batches)) >= batch_size  # no step on an image or two
    mixed = [b for b in batches if len({ratios[k] > 1 for k in b}) == 2]
    assert len(mixed) <= 2  # at most 2 (batch_size - 1) images are left over


def test_order_depends_on_seed_and_epoch_only():
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = AspectRatioBatchSampler(Toy(50).aspect_ratios(), 4, seed=seed)
        sampler.set_epoch(epoch)
        torch.rand(3)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) and order(0, 0) != order(1, 0)


def test_unshuffled_order_is_the_data_sets():
    loader = build_loader(Toy(10), 4, shuffle=False)
    assert [[row[0] for row in batch] for batch in seen(loader)] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert [loader.batch_length(k) for k in range(3)] == [4, 3, 3]
    assert len(loader) == 3


def test_batches_match_targets_and_shapes():
    for images, targets in build_loader(Toy(30), 5, shuffle=True):
        assert all((image == target["image_id"]).all() for image, target in zip(images, targets, strict=True))
    shapes = [{image.shape for image in images} for images, _ in build_loader(Toy(30), 5, shuffle=True)]
    assert all(len(s) == 1 for s in shapes)  # 10 portraits and 20 landscapes: no batch is mixed


def test_workers_change_nothing():
    one = build_loader(Toy(23), 4, shuffle=True, seed=5)
    two = build_loader(Toy(23), 4, shuffle=True, seed=5, num_workers=2)
    for epoch in (0, 1):
        one.set_epoch(epoch)
        two.set_epoch(epoch)  # reaches the persistent workers of epoch 0
        alone, together = seen(one), seen(two)
        assert alone == together
        flips = [row[1] > 0 for batch in alone for row in batch]
        assert 3 < sum(flips) < 20
        if epoch == 0:
            first = {row[0]: row[1:] for batch in alone for row in batch}
    assert {row[0]: row[1:] for batch in alone for row in batch} != first  # other draws in another epoch


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_in_the_middle(num_workers):
    def fresh():
        loader = build_loader(Toy(23), 4, shuffle=True, seed=2, num_workers=num_workers)
        loader.set_epoch(3)
        return loader

    whole = seen(fresh())
    interrupted = fresh()
    iterator = iter(interrupted)
    for _ in range(2):
        next(iterator)
    state = interrupted.state_dict()  # workers have fetched further by now
    assert state["position"] == 2
    resumed = build_loader(Toy(23), 4, shuffle=True, seed=2, num_workers=num_workers)
    resumed.load_state_dict(state)
    resumed.set_epoch(3)
    assert seen(resumed) == whole[2:]
    assert seen(resumed) == whole  # the pass after that is a whole one again


def test_resume_at_the_end_of_an_epoch():
    loader = build_loader(Toy(9), 4, shuffle=True)
    assert len(seen(loader)) == 3
    resumed = build_loader(Toy(9), 4, shuffle=True)
    resumed.load_state_dict(loader.state_dict())
    resumed.set_epoch(0)
    assert seen(resumed) == []  # the epoch was over
    resumed.set_epoch(1)
    loader.set_epoch(1)
    assert seen(resumed) == seen(loader) != []


def test_a_state_of_other_data_is_refused():
    state = build_loader(Toy(9), 4, shuffle=True).state_dict()
    with pytest.raises(ValueError, match="num_samples was 9, is 10"):
        build_loader(Toy(10), 4, shuffle=True).load_state_dict(state)
    with pytest.raises(ValueError, match="batch_size was 4, is 3"):
        build_loader(Toy(9), 3, shuffle=True).load_state_dict(state)
    with pytest.raises(ValueError, match="position 99"):
        build_loader(Toy(9), 4, shuffle=True).load_state_dict(state | {"position": 99})


def test_loading_leaves_the_callers_random_state_alone():
    def after(use_loader: bool) -> tuple:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        if use_loader:
            seen(build_loader(Toy(9), 4, shuffle=True))
        return torch.rand(()).item(), np.random.uniform(), random.random()

    assert after(True) == after(False)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": 2, "rank": 2, "world_size": 2},
        {"batch_size": 2, "num_workers": -1},
    ],
)
def test_bad_options(options):
    with pytest.raises(ValueError, match=r"\d"):
        build_loader(Toy(9), **options, shuffle=True)


def test_grouping_needs_ratios():
    class Plain(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return torch.zeros(3, 2, 2, dtype=torch.uint8), {"image_id": index}

    with pytest.raises(ValueError, match="Plain has none"):
        build_loader(Plain(), 2, shuffle=True, group_by_aspect=True)
    assert sorted(t["image_id"] for _, targets in build_loader(Plain(), 2, shuffle=True) for t in targets) == [0, 1, 2]


def test_clipped_images_are_noted_once(tmp_path, caplog):
    paths = write_coco(tmp_path, [box(1)], images=[entry(1), entry(2)], files=False)
    for k in (1, 2):
        image = Image.fromarray(np.full((30, 40), 200 + k, dtype=np.float32))
        (tmp_path / f"{k}.png").write_bytes(encoded(image, "TIFF"))
    for workers in (0, 1):
        dataset = CocoDetection(*paths)
        caplog.clear()
        with caplog.at_level(logging.INFO, "mlc_ext.detectors"):
            for _ in range(2):
                for _, targets in build_loader(dataset, 2, shuffle=False, num_workers=workers):
                    assert all("clipped" not in target for target in targets)
        assert "2 images with values that were clipped" in dataset.summary()
        reported = [(record.levelname, record.getMessage().partition(":")[0]) for record in caplog.records]
        what = "has values of {0} to {0}, of a float32 image read as 0..1"
        assert reported == [("WARNING", f"{tmp_path}/1.png {what.format(201)}"),
                            ("INFO", f"{tmp_path}/2.png {what.format(202)}")]  # fmt: skip
