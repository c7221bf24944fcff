"""Counts of a data set and the warnings on what is likely to harm a training."""

from __future__ import annotations

import numpy as np
import pytest
from coco_files import make_dataset, random_rows

from mlc_ext.detectors.config.settings import DataConfig
from mlc_ext.detectors.data.inspection import likely_harm, resized_sides
from mlc_ext.detectors.data.transforms import Resize


@pytest.mark.parametrize(
    ("short", "long"),
    [(800, 1333), (300, 320), ((200, 600), 1000), (20, 1000)],
    ids=["large", "long", "several", "small"],
)
def test_sides_are_those_of_the_resized_images(tmp_path, short, long):
    """Against the transform itself, which rounds the sides of the image to pixels."""
    dataset = make_dataset(tmp_path, random_rows(np.random.default_rng(0)))
    dataset.sizes[:] = [(400, 400), (300, 400), (399, 100), (50, 400)]
    data = DataConfig(short_side=short, long_side=long)
    resize = Resize(data.evaluated_side, long)
    found = resized_sides(dataset.table, dataset.sizes, data)
    for index, size in enumerate(dataset.sizes.tolist()):
        target = dataset.target(index)
        image, resized = resize(target["boxes"].new_zeros(3, *size, dtype=int).byte(), target)
        expected = (resized["boxes"][:, 2:] - resized["boxes"][:, :2]).min(1).values.numpy()
        rounding = 0.5 / min(image.shape[1:])
        np.testing.assert_allclose(found[dataset.table.owners == index], expected, rtol=2 * rounding)


def warnings(folder, objects):
    rows = [(k % 4, category, (10, 10, side, 50), 0) for k, (category, side) in enumerate(objects)]
    return likely_harm(make_dataset(folder, rows, categories=(2, 5)), DataConfig())


def test_the_ends_of_the_warnings(tmp_path):
    """At 800 pixels, images of 400 are twice as large: a side of 3.9 is 7.8 pixels."""
    many = [(2, 50)] * 40
    assert warnings(tmp_path, [*many, *[(5, 50)] * 10]) == []
    assert warnings(tmp_path, [*many, *[(5, 50)] * 9]) == ["categories with fewer than 10 objects: c5 (9)"]
    tiny = [*[(2, 50)] * 45, *[(5, 50)] * 45, *[(5, 3.9)] * 10]
    assert warnings(tmp_path, tiny) == []
    assert [line.partition(" have")[0] for line in warnings(tmp_path, [*tiny, (5, 3.9)])] == ["tiny boxes: 11%"]
    assert warnings(tmp_path, [*tiny, (5, 4)]) == []
