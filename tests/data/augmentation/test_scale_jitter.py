"""Scale jitter with a crop and a flip: sizes, factors, and boxes that follow the pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from painted_images import bounds, painted, scenes, target_of

from mlc_ext.detectors.config.settings import DataConfig
from mlc_ext.detectors.data.augmentation.pipeline import training_transforms
from mlc_ext.detectors.data.augmentation.scale_jitter import ScaleJitter
from mlc_ext.detectors.data.transforms import Resize


@given(scenes(), st.tuples(st.floats(0.3, 1), st.floats(1, 2.5)), st.integers(16, 96), st.integers(16, 96),
       st.booleans(), st.integers(0, 2**31))  # fmt: skip
def test_boxes_follow_the_pixels(scene, factors, short, long, flip, seed):
    """To a pixel, through the whole pipeline, for boxes that have two pixels a side."""
    size, target = scene
    data = DataConfig(short_side=short, long_side=long, scale_jitter=factors, flip=float(flip), min_visible=0.0)
    transforms = training_transforms(data)

    def changed(image):
        torch.manual_seed(seed)
        return transforms(image, target)

    found, result = changed(painted(size))
    height, width = found.shape[-2:]
    assert min(height, width) <= min(short, long) and max(height, width) <= max(short, long)
    assert result["cut"] == len(target["labels"]) - len(result["labels"])
    boxes = result["boxes"]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= torch.tensor([width, height])).all()
    assert ((boxes[:, 2:] - boxes[:, :2]) >= 1).all()
    for label, box in zip(result["labels"].tolist(), boxes, strict=True):
        if (box[2:] - box[:2]).min() >= 2:
            pixels = bounds(changed(painted(size, target["boxes"][label - 1]))[0])
            assert np.abs(np.array(pixels) - box.numpy()).max() <= 1


def test_factors_are_uniform_in_the_range_and_areas_follow():
    torch.manual_seed(0)
    jitter = ScaleJitter(Resize(50, 50), (0.5, 2.0))
    image, target = painted((100, 100)), target_of([[10, 20, 50, 90]])
    results = [jitter(image, target) for _ in range(400)]
    sides = np.array([found.shape[-1] for found, _ in results])
    assert sides.min() >= 25 and sides.max() <= 100 and np.mean(sides) == pytest.approx(62.5, abs=3)
    assert np.mean(sides < 62.5) == pytest.approx(0.5, abs=0.08)
    for found, changed in results[:20]:
        factor = found.shape[-1] / 100
        torch.testing.assert_close(changed["boxes"], target["boxes"] * factor)
        torch.testing.assert_close(changed["area"], target["area"] * factor**2)


@pytest.mark.parametrize(("size", "canvas"), [((60, 80), (32, 48)), ((80, 60), (48, 32)), ((60, 60), (32, 48))])
def test_the_crop_has_the_images_orientation(size, canvas):
    data = DataConfig(short_side=32, long_side=48, scale_jitter=(3.0, 3.0), flip=0.0)
    found, _ = training_transforms(data)(painted(size), target_of([]))
    assert found.shape[-2:] == canvas


def test_off_it_is_the_resize():
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    plain = training_transforms(DataConfig(short_side=32, long_side=48, flip=0.0))(image, target_of([]))
    assert torch.equal(plain[0], Resize(32, 48)(image, target_of([]))[0]) and "cut" not in plain[1]


def test_two_kinds_of_multi_scale_training_are_refused():
    with pytest.raises(ValueError, match=r"data.scale_jitter takes one data.short_side, got \(32, 48\)"):
        training_transforms(DataConfig(short_side=(32, 48), long_side=64, scale_jitter=(0.5, 1.0)))
