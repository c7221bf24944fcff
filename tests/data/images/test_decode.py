"""Broken and hostile image files: each has the outcome that docs/faults.md gives."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from coco_files import box, encoded, entry, noise, write_coco
from PIL import Image

from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.errors import ImageDecodeError
from mlc_ext.detectors.data.images.decode import decode_image


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpeg(kept, progressive):
    data = encoded(noise(64, 64), "JPEG", quality=90, progressive=progressive)
    decode_image(data, (64, 64))
    with pytest.raises(ImageDecodeError, match="truncated|an empty file"):
        decode_image(data[: int(kept * len(data))], (64, 64))


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 4096,
        b"hello, I am a text",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"II*\0\xff\xff\xff\xff",
    ],
)
def test_files_that_are_no_images(data):
    """Also PostScript: Pillow would pass it to Ghostscript."""
    with pytest.raises(ImageDecodeError, match="cannot be decoded") as error:
        decode_image(data)
    assert "0x" not in str(error.value)  # no addresses of Python objects


def test_an_announced_size_is_compared_before_decoding(monkeypatch):
    """A picture of another size costs no memory, whatever size its header gives."""
    data = encoded(Image.new("1", (3000, 2000)))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageDecodeError, match="is 3000x2000 pixels, but the annotations give 40x30"):
        decode_image(data, (30, 40))


def test_decompression_bomb():
    data = bytearray(encoded(Image.new("L", (1, 1))))
    data[16:24] = (60_000).to_bytes(4, "big") * 2  # the sides in the header; its checksum is corrected below
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    with pytest.raises(ImageDecodeError, match="decompression bomb"):
        decode_image(bytes(data))


def test_an_image_file_of_absurd_length_is_not_read(tmp_path):
    paths = write_coco(tmp_path, [box(1), box(2)])
    with open(tmp_path / "1.png", "r+b") as file:
        file.truncate(2**40)  # sparse: takes no disk
    dataset = CocoDetection(*paths, cache=True)
    assert dataset[0][1]["image_id"] == 2
    assert "has 1099511627776 bytes, the limit is 1073741824" in dataset.findings.broken["1.png"]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("CMYK", "JPEG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("1", "PNG"),
        ("I;16", "PNG"),
        ("I;16B", "TIFF"),
        ("F", "TIFF"),
        ("LAB", "TIFF"),
    ],
)
def test_image_modes_become_rgb(tmp_path, mode, kind):
    paths = write_coco(tmp_path, [box(1)], images=[entry(1)], files=False)
    Image.new(mode, (40, 30)).save(tmp_path / "1.png", kind)
    image, _ = CocoDetection(*paths, strict=True)[0]
    assert image.shape == (3, 30, 40) and image.dtype == torch.uint8


def test_a_pipe_or_folder_in_an_images_place_is_missing(tmp_path):
    """Reading a named pipe would never end."""
    paths = write_coco(tmp_path, [box(1)], images=[entry(k) for k in (1, 2, 3)] + [entry(4, "deep/4.png")], files=False)
    noise().save(tmp_path / "3.png")
    os.mkfifo(tmp_path / "1.png")
    (tmp_path / "2.png").mkdir()
    (tmp_path / "deep" / "4.png").mkdir(parents=True)
    dataset = CocoDetection(*paths)
    assert dataset.image_ids == [3] and dataset.findings.dropped["missing images"] == 3


def test_links_on_disk_are_followed(tmp_path):
    """Links in the folder belong to its owner; only names in the JSON are refused."""
    (tmp_path / "store").mkdir()
    (tmp_path / "set").mkdir()
    noise().save(tmp_path / "store" / "a.png")
    (tmp_path / "set" / "1.png").symlink_to(tmp_path / "store" / "a.png")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "set" / "3.png").symlink_to(tmp_path / "set" / "3.png")  # a link loop
    images = [entry(1), entry(2, "linked/a.png"), entry(3)]
    paths = write_coco(tmp_path / "set", [box(1), box(2)], images=images, files=False)
    assert CocoDetection(*paths).image_ids == [1, 2]


@pytest.mark.parametrize("name", ["x" * 5000, "deep/" + "x" * 5000, "1.png/2.png", "\ud800.png", "a\nb.png", "\x1b[2J"])
def test_odd_file_names_are_no_files(tmp_path, name, capsys):
    paths = write_coco(tmp_path, [box(1)], images=[entry(1)])
    content = json.loads(paths[1].read_text())
    content["images"].append(entry(2, name))
    paths[1].write_text(json.dumps(content))
    dataset = CocoDetection(*paths)
    assert dataset.image_ids == [1] and sum(dataset.findings.dropped.values()) == 1
    dataset.summary().encode()


def float_image(values) -> bytes:
    return encoded(Image.fromarray(np.array(values, dtype=np.float32)), "TIFF")


def test_float_images_are_read_as_torchvision_reads_them():
    """The values are those of torchvision.transforms.v2.functional.to_dtype(uint8, scale=True)."""
    image = decode_image(float_image([[0, 0.25, 0.5, 0.9, 1.0]]))
    assert image.tolist() == [[[0, 63, 127, 230, 255]]] * 3


@pytest.mark.parametrize("other", [0.1, 1.0, 1.5, 255.0, -3.0, float("inf"), float("-inf"), float("nan")])
def test_a_float_pixel_does_not_depend_on_the_others(other):
    noted = []
    pixels = decode_image(float_image([[0.5, other, 0.9]]), note=noted.append)[0].tolist()[0]
    assert pixels[::2] == [127, 230]
    assert pixels[1] == (255 if 1 <= other < 1e9 else 25 if other == 0.1 else 0)
    assert bool(noted) == (not 0 <= other <= 1)


def test_32_bit_integers_beyond_16_bits_are_noted():
    noted = []
    data = encoded(Image.fromarray(np.array([[256, 65535, 70000]], dtype=np.int32)), "TIFF")
    assert decode_image(data, note=noted.append)[0].tolist() == [[1, 255, 255]] and "70000" in noted[0]
