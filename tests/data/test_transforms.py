"""Resize, flip and Compose: MMDetection's sizes, boxes that follow the pixels, draws that can be repeated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_ext.detectors.data.transforms import Compose, RandomHorizontalFlip, Resize


def make_target(boxes) -> dict:
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {
        "boxes": boxes,
        "labels": torch.ones(len(boxes), dtype=torch.int64),
        "iscrowd": torch.zeros(len(boxes), dtype=torch.bool),
        "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        "image_id": 1,
        "orig_size": (1, 1),
    }


def painted(height: int, width: int, box) -> torch.Tensor:
    """Black, with `box` (xyxy, whole pixels) white."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, box[1] : box[3], box[0] : box[2]] = 255
    return image


def bounds(image: torch.Tensor) -> list[int]:
    rows, columns = np.nonzero((image[0] > 127).numpy())
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),  # COCO's most frequent size: MMDetection gives 1067 x 800
        ((640, 480), (1067, 800)),
        ((400, 1000), (533, 1333)),  # held by the long side
        ((800, 1333), (800, 1333)),
        ((500, 333), (1201, 800)),
        ((1, 5000), (1, 1333)),  # never less than a pixel
    ],
)
def test_sizes_of_mmdetection(size, expected):
    assert Resize(800, 1333).output_size(*size, 800) == expected
    if max(size) < 2000:
        image, _ = Resize(800, 1333)(torch.zeros(3, *size, dtype=torch.uint8), make_target([]))
        assert image.shape[1:] == expected and image.dtype == torch.uint8


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 60), st.integers(1, 120))
def test_resize_keeps_boxes_in_proportion(height, width, short, long):
    target = make_target([[0, 0, width, height], [width / 4, height / 3, width / 2, height / 1.5]])
    image, resized = Resize(short, long)(torch.zeros(3, height, width, dtype=torch.uint8), target)
    new_height, new_width = image.shape[1:]
    assert max(new_height, new_width) <= max(long, 1) and min(new_height, new_width) <= max(short, 1)
    assert resized["boxes"][0].tolist() == pytest.approx([0, 0, new_width, new_height], rel=1e-6)
    back = resized["boxes"] / torch.tensor([new_width / width, new_height / height] * 2)
    torch.testing.assert_close(back, target["boxes"], rtol=1e-5, atol=1e-4)
    box = resized["boxes"]
    torch.testing.assert_close(resized["area"], (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]), rtol=1e-4, atol=1e-3)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 80))
def test_pixels_equal_float_interpolation(height, width, short, long):
    """Thin images too, where PyTorch's uint8 kernel fails."""
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    resized, _ = Resize(short, long)(image, make_target([]))
    expected = torch.nn.functional.interpolate(
        image[None].double(), size=resized.shape[1:], mode="bilinear", antialias=True
    )[0]
    assert (resized.double() - expected).abs().max() <= 2.0


@pytest.mark.parametrize("short", [30, 90, 240])
def test_boxes_follow_the_pixels(short):
    box = [20, 30, 80, 96]
    image, target = Resize(short, 1000)(painted(120, 160, box), make_target([box]))
    assert np.abs(np.array(bounds(image)) - target["boxes"][0].numpy()).max() <= 0.75


def test_shrinking_is_antialiased():
    checks = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255).to(torch.uint8).expand(3, 64, 64)
    image, _ = Resize(16, 16)(checks, make_target([]))
    assert (image.int() - 127).abs().max() <= 12  # all gray: every pixel counts


def test_inputs_are_not_changed():
    image, target = painted(40, 60, [3, 4, 20, 30]), make_target([[3, 4, 20, 30]])
    before = image.clone(), target["boxes"].clone(), target["area"].clone()
    Compose([Resize(20, 100), RandomHorizontalFlip(1.0)])(image, target)
    assert (
        torch.equal(image, before[0])
        and torch.equal(target["boxes"], before[1])
        and torch.equal(target["area"], before[2])
    )


def test_flip():
    box = [3, 4, 20, 30]
    image, target = RandomHorizontalFlip(1.0)(painted(40, 60, box), make_target([box]))
    assert target["boxes"].tolist() == [bounds(image)] == [[40, 4, 57, 30]]
    image, target = RandomHorizontalFlip(1.0)(image, target)
    assert target["boxes"].tolist() == [box] and torch.equal(image, painted(40, 60, box))
    image, target = RandomHorizontalFlip(0.0)(image, target)
    assert target["boxes"].tolist() == [box]


def test_flip_rate_and_seed():
    def draws(seed: int) -> list[float]:
        torch.manual_seed(seed)
        flip, image = RandomHorizontalFlip(0.3), torch.zeros(3, 2, 10, dtype=torch.uint8)
        return [flip(image, make_target([[0, 0, 1, 1]]))[1]["boxes"][0, 0].item() for _ in range(1000)]

    first = draws(0)
    assert first == draws(0) != draws(1)
    assert np.mean(np.array(first) > 0) == pytest.approx(0.3, abs=0.06)


def test_multi_scale_draws_every_side():
    torch.manual_seed(0)
    resize = Resize((16, 24, 32), 1000)
    sides = {resize(torch.zeros(3, 50, 60, dtype=torch.uint8), make_target([]))[0].shape[1] for _ in range(60)}
    assert sides == {16, 24, 32}


def test_no_boxes():
    transforms = Compose([Resize(20, 40), RandomHorizontalFlip(1.0)])
    image, target = transforms(torch.zeros(3, 30, 30, dtype=torch.uint8), make_target([]))
    assert image.shape == (3, 20, 20) and target["boxes"].shape == (0, 4) and target["area"].shape == (0,)


def test_compose_is_in_order():
    def note(tag):
        return lambda image, target: (image, {**target, "order": target.get("order", "") + tag})

    assert Compose([note("a"), note("b")])(torch.zeros(3, 1, 1), {})[1]["order"] == "ab"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Resize(0, 10),
        lambda: Resize((), 10),
        lambda: Resize(10, -1),
        lambda: Resize(10.5, 20),
        lambda: RandomHorizontalFlip(1.5),
    ],
)
def test_bad_options(make):
    with pytest.raises(ValueError, match="got"):
        make()
