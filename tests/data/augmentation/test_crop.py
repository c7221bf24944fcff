"""Crops: boxes follow the pixels, and what is hardly visible is ignored and counted."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from painted_images import bounds, painted, scenes, target_of

from mlc_ext.detectors.config.settings import DataConfig
from mlc_ext.detectors.data.augmentation.crop import crop, random_crop
from mlc_ext.detectors.data.augmentation.pipeline import training_transforms


@given(st.data(), scenes(), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_against_the_pixels(data, scene, min_visible):
    """Exactly: whole boxes, whole pixels. The share is counted in pixels too."""
    (height, width), target = scene
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    place = top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    expected = {}
    for label, box, area in zip(target["labels"].tolist(), target["boxes"], target["area"].tolist(), strict=True):
        part, found = crop(painted((height, width), box), target, *place, min_visible)
        assert part.shape[-2:] == place[2:]
        visible = int((part[0] > 0).sum())
        if visible:
            expected[label] = (bounds(part), visible, bool(target["iscrowd"][label - 1]), visible / area < min_visible)
    _, found = crop(painted((height, width)), target, *place, min_visible)
    assert found["labels"].tolist() == list(expected)
    assert found["boxes"].tolist() == [box for box, *_ in expected.values()]
    torch.testing.assert_close(found["area"], torch.tensor([float(area) for _, area, *_ in expected.values()]))
    assert found["iscrowd"].tolist() == [crowd or hidden for *_, crowd, hidden in expected.values()]
    hidden = sum(hidden and not crowd for *_, crowd, hidden in expected.values())
    assert found["cut"] == len(target["labels"]) - len(expected) + hidden
    assert (found["image_id"], found["orig_size"]) == (target["image_id"], target["orig_size"])


def test_the_share_is_of_the_box_and_areas_keep_their_ratio():
    """An object with a mask of half its box keeps half; at exactly the limit it stays."""
    image, target = painted((20, 40)), target_of([[0, 0, 20, 10]])
    target["area"] = torch.tensor([100.0])
    assert crop(image, target, 0, 15, 20, 25, 0.25)[1]["area"].tolist() == [25.0]
    assert crop(image, target, 0, 16, 20, 24, 0.25)[1]["cut"] == 1


@pytest.mark.parametrize("crowd", [False, True])
def test_a_part_within_a_large_box_is_no_background(crowd):
    """One sixteenth of the box, below ``min_visible``: a crowd stays one, an object becomes one."""
    _, found = crop(painted((100, 100)), target_of([[0, 0, 100, 100]], [crowd]), 30, 30, 25, 25, 0.1)
    assert found["boxes"].tolist() == [[0, 0, 25, 25]] and found["iscrowd"].tolist() == [True]
    assert found["cut"] == (not crowd)


@pytest.mark.parametrize("side", [64, 160, 320, 333])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_box_at_the_border_is_whole_in_spite_of_rounding(side, flip):
    data = DataConfig(short_side=side, long_side=side, scale_jitter=(0.5, 1.0), min_visible=1.0, flip=flip)
    for width in range(50, 400, 7):
        torch.manual_seed(width)
        target = target_of([[width // 2, width // 2, width + 3, width]])
        _, found = training_transforms(data)(painted((width, width + 3)), target)
        assert found["cut"] == 0 and not found["iscrowd"].any()


def test_less_than_a_pixel_is_left_out():
    target = target_of([[0.0, 0.0, 10.0, 10.0], [9.5, 0.0, 12.0, 9.0]])
    _, found = crop(torch.zeros(3, 20, 20, dtype=torch.uint8), target, 0, 0, 20, 10, 0.0)
    assert found["labels"].tolist() == [1] and found["cut"] == 1


def test_counts_add_up():
    image, target = painted((20, 20)), target_of([[0, 0, 5, 5], [10, 10, 15, 15]])
    image, target = crop(image, target, 8, 0, 12, 20, 0.1)
    assert crop(image, target, 0, 0, 12, 5, 0.1)[1]["cut"] == 2


def test_inputs_are_not_changed():
    image, target = painted((20, 20), [0, 0, 15, 5]), target_of([[0, 0, 15, 5]])
    before = image.clone(), {name: value.clone() for name, value in target.items() if torch.is_tensor(value)}
    crop(image, target, 2, 3, 9, 9, 0.1)
    assert torch.equal(image, before[0]) and all(torch.equal(target[name], before[1][name]) for name in before[1])
    assert "cut" not in target


def test_random_places_reach_every_corner():
    torch.manual_seed(0)
    image = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4)
    corners = {int(random_crop(image, target_of([]), 3, 2, 0.1)[0][0, 0, 0]) for _ in range(200)}
    assert corners == {0, 1, 2, 4, 5, 6}


@pytest.mark.parametrize("size", [(4, 4), (9, 100)])
def test_a_smaller_image_stays_whole(size):
    image, target = painted((4, 4), [1, 1, 3, 3]), target_of([[1, 1, 3, 3]])
    part, found = random_crop(image, target, *size, 0.1)
    assert torch.equal(part, image) and torch.equal(found["boxes"], target["boxes"]) and found["cut"] == 0
