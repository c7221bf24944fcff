"""Brightness, contrast, saturation and hue against PIL, colorsys and torchvision; what is drawn, and how often."""

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from painted_images import target_of
from PIL import Image, ImageEnhance

from mlc_ext.detectors.data.augmentation import photometric
from mlc_ext.detectors.data.augmentation.photometric import (
    PhotometricDistort,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
)

ENHANCERS = {
    adjust_brightness: ImageEnhance.Brightness,
    adjust_contrast: ImageEnhance.Contrast,
    adjust_saturation: ImageEnhance.Color,
}


def picture(seed: int = 0, height: int = 24, width: int = 31) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("adjust", ENHANCERS)
@pytest.mark.parametrize("factor", [0.5, 0.875, 1.0, 1.3, 1.5])
def test_as_pil(adjust, factor):
    """PIL rounds its gray values and its results down."""
    image = picture()
    expected = ENHANCERS[adjust](Image.fromarray(image.permute(1, 2, 0).numpy())).enhance(factor)
    found = adjust(image.float() / 255, factor) * 255
    assert np.abs(found.permute(1, 2, 0).numpy() - np.array(expected).astype(float)).max() <= 1.5


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=20), st.floats(-0.5, 0.5))
def test_hue_as_colorsys(colors, shift):
    image = torch.tensor(colors, dtype=torch.float32).T.reshape(3, 1, -1) / 255
    found = adjust_hue(image, shift)
    for color, result in zip(image[:, 0].T.tolist(), found[:, 0].T.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*color)
        assert result == pytest.approx(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value), abs=2e-5)


@pytest.mark.parametrize(("adjust", "name", "amount"), [
    (adjust_brightness, "adjust_brightness", 1.1), (adjust_contrast, "adjust_contrast", 0.6),
    (adjust_saturation, "adjust_saturation", 1.4), (adjust_hue, "adjust_hue", -0.05)])  # fmt: skip
def test_as_torchvision(adjust, name, amount):
    functional = pytest.importorskip("torchvision.transforms.v2.functional", exc_type=ImportError)
    image = picture().float() / 255
    torch.testing.assert_close(adjust(image, amount), getattr(functional, name)(image, amount), rtol=0, atol=2e-4)


def test_ranges_are_torchvisions():
    transforms = pytest.importorskip("torchvision.transforms.v2", exc_type=ImportError)
    theirs = transforms.RandomPhotometricDistort()
    for name in ("brightness", "contrast", "saturation", "hue"):
        assert tuple(getattr(theirs, name)) == getattr(photometric, name.upper())


def test_each_is_drawn_with_its_probability(monkeypatch):
    torch.manual_seed(0)
    calls = []
    for name in ("brightness", "contrast", "saturation", "hue"):
        monkeypatch.setattr(photometric, f"adjust_{name}",
                            lambda image, amount, name=name: calls.append((name, amount)) or image)  # fmt: skip
    image = picture(height=2, width=2)
    orders = []
    for _ in range(1000):
        begun = len(calls)
        PhotometricDistort(0.3)(image, target_of([]))
        orders.append([name for name, _ in calls[begun:]])
    for name in ("brightness", "contrast", "saturation", "hue"):
        low, high = getattr(photometric, name.upper())
        amounts = [amount for called, amount in calls if called == name]
        assert len(amounts) / 1000 == pytest.approx(0.3, abs=0.05)
        assert low <= min(amounts) < low + 0.1 * (high - low) and high - 0.1 * (high - low) < max(amounts) <= high
    both = [order.index("contrast") < order.index("hue") for order in orders if {"contrast", "hue"} <= set(order)]
    assert np.mean(both) == pytest.approx(0.5, abs=0.15)


def test_boxes_and_inputs_stay():
    image, target = picture(), target_of([[1, 2, 10, 12]])
    before = image.clone()
    torch.manual_seed(3)
    found, same = PhotometricDistort(1.0)(image, target)
    assert (
        same is target and torch.equal(image, before) and found.dtype == torch.uint8 and not torch.equal(found, image)
    )
    assert PhotometricDistort(0.0)(image, target)[0] is image


def test_the_number_of_threads_changes_no_bit(threads):
    """Loader workers have one thread, the training process more."""
    image, found = picture(height=500, width=701), []
    for count in (1, 2):
        threads(count)
        torch.manual_seed(1)
        found.append(torch.stack([PhotometricDistort(1.0)(image, {})[0] for _ in range(3)]))
    assert torch.equal(*found)


def test_bad_probability():
    with pytest.raises(ValueError, match=r"0..1, got 1.5"):
        PhotometricDistort(1.5)
