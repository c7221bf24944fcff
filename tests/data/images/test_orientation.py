"""The EXIF orientation: one rule for all programs, and the count of the images that it turns."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from coco_files import box, encoded, entry, noise, write_coco
from PIL import Image, ImageOps

from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.images import orientation as module
from mlc_ext.detectors.data.images.decode import decode_image

TURNED = "images turned by their EXIF orientation"


def with_orientation(value: int, width: int = 40, height: int = 30, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encoded(noise(height, width), kind, exif=exif)


def by_pil(data: bytes) -> torch.Tensor:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def dataset_of(folder, data: bytes, width: int, height: int) -> CocoDetection:
    paths = write_coco(folder, [box(1)], images=[entry(1, "1.img", width=width, height=height)], files=False)
    (folder / "1.img").write_bytes(data)
    return CocoDetection(*paths)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("sides", [(40, 30), (30, 30)])
def test_images_are_turned_as_pil_turns_them(tmp_path, kind, value, sides):
    """In training and evaluation as in prediction, which has no size to compare."""
    data = with_orientation(value, *sides, kind=kind)
    expected = by_pil(data)
    dataset = dataset_of(tmp_path, data, *expected.shape[:0:-1])
    assert torch.equal(decode_image(data), expected) and torch.equal(dataset[0][0], expected)
    with Image.open(io.BytesIO(data)) as image:  # as convert reads it, with and without a size in the annotations
        sizes = [module.turned_size(image, size) for size in (None, tuple(expected.shape[1:]))]
    assert sizes == [tuple(expected.shape[1:])] * 2
    assert dataset.findings.noted[TURNED] == (value != 1)


@pytest.mark.parametrize("value", [5, 6, 7, 8])
def test_boxes_in_the_frame_of_the_stored_pixels(tmp_path, value):
    """The JSON has the size before the turn: boxes fit the pixels as they are stored."""
    data = with_orientation(value)
    dataset = dataset_of(tmp_path, data, 40, 30)
    assert torch.equal(dataset[0][0], by_pil(encoded(noise())))
    with Image.open(io.BytesIO(data)) as image:
        assert (module.turned_size(image, (30, 40)), module.turned_size(image, None)) == ((30, 40), (40, 30))
    assert dict(dataset.findings.noted) == {
        "images not turned by EXIF, as the JSON has the size of their stored pixels": 1
    }


@pytest.mark.parametrize("value", [0, 9, 2**15])
def test_orientations_that_do_not_exist(tmp_path, value):
    dataset = dataset_of(tmp_path, with_orientation(value), 40, 30)
    assert torch.equal(dataset[0][0], by_pil(encoded(noise()))) and not dataset.findings.noted


def test_another_size_in_any_frame_is_a_broken_image(tmp_path):
    paths = write_coco(tmp_path, [box(1)], images=[entry(1, "1.jpg", width=31, height=40), entry(2)], files=False)
    (tmp_path / "1.jpg").write_bytes(with_orientation(6, kind="JPEG"))
    noise().save(tmp_path / "2.png")
    dataset = CocoDetection(*paths)
    assert dataset[0][1]["image_id"] == 2 and "is 40x30 pixels" in dataset.findings.broken["1.jpg"]


def test_of_many_images_a_sample_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 4)
    paths = write_coco(tmp_path, [box(1)], images=[entry(k) for k in range(1, 9)], files=False)
    for k in range(1, 9):
        (tmp_path / f"{k}.png").write_bytes(with_orientation(2))
    assert f"4 {TURNED} (of 4 looked at)" in CocoDetection(*paths).summary()
