"""Broken and hostile data sets: what docs/faults.md says of each is what happens."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_files import box, encoded, write_coco
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Dataset

from detectors import train
from detectors.builder import build_datasets, build_validation_set
from detectors.config import Config, override
from detectors.data import CocoDetection, CocoEvaluator, DataError, ImageDecodeError, build_loader, decode_image
from detectors.data.loader import death_of_worker

FAULTS = (Path(__file__).resolve().parents[1] / "docs" / "faults.md").read_text()


def noise(height=30, width=40, seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def entry(image_id, name=None, width=40, height=30):
    return {"id": image_id, "file_name": name or f"{image_id}.png", "width": width, "height": height}


def test_data_faults_are_tested_as_documented():
    """Every row of the data's table names tests that exist."""
    rows = FAULTS.split("## Data")[1].split("\n## ")[0].splitlines()
    names = [re.findall(r"`(test_\w+)`", row) for row in rows if row.startswith("| ") and "`test_" in row]
    assert len(names) >= 39
    defined = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for name in (name for found in names for name in found):
        assert f"def {name}(" in defined, name


# -- image files


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
    """PostScript too: Pillow would hand it to Ghostscript."""
    with pytest.raises(ImageDecodeError, match="cannot be decoded") as error:
        decode_image(data)
    assert "0x" not in str(error.value)  # no addresses of Python objects


def test_an_announced_size_is_compared_before_decoding(monkeypatch):
    """A picture of another size costs no memory, however large it says it is."""
    data = encoded(Image.new("1", (3000, 2000)))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageDecodeError, match="is 3000x2000 pixels, but the annotations say 40x30"):
        decode_image(data, (30, 40))


def test_decompression_bomb():
    data = bytearray(encoded(Image.new("L", (1, 1))))
    data[16:24] = (60_000).to_bytes(4, "big") * 2  # the sides in the header; its checksum is not looked at first
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    with pytest.raises(ImageDecodeError, match="decompression bomb"):
        decode_image(bytes(data))


def test_an_image_file_of_absurd_length_is_not_read(tmp_path):
    paths = write_coco(tmp_path, [box(1), box(2)])
    with open(tmp_path / "1.png", "r+b") as file:
        file.truncate(2**40)  # sparse: takes no disk
    dataset = CocoDetection(*paths, cache=True)
    assert dataset[0][1]["image_id"] == 2 and "no image has that is read here" in dataset.broken["1.png"]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 0, 9])
def test_exif_rotation(tmp_path, orientation):
    """Boxes live in the frame that the JSON's size tells: 30 x 40 here, while the file's pixels lie 40 x 30."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    paths = write_coco(tmp_path, [box(1)], images=[entry(1, "1.jpg", width=30, height=40), entry(2)], files=False)
    Image.new("RGB", (40, 30)).save(tmp_path / "2.png")
    noise().save(tmp_path / "1.jpg", exif=exif)
    item = CocoDetection(*paths)[0]
    if orientation in (6, 8):
        assert item[0].shape == (3, 40, 30) and item[1]["image_id"] == 1
    else:  # nothing turns it to the size in the JSON
        assert item[1]["image_id"] == 2


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"),
                                            ("I;16", "PNG"), ("I;16B", "TIFF"), ("F", "TIFF"), ("LAB", "TIFF")])
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
    assert dataset.image_ids == [3] and dataset.dropped["missing images"] == 3


def test_links_on_disk_are_followed(tmp_path):
    """They are the owner's; only a name in the JSON cannot lead out."""
    (tmp_path / "store").mkdir()
    (tmp_path / "set").mkdir()
    noise().save(tmp_path / "store" / "a.png")
    (tmp_path / "set" / "1.png").symlink_to(tmp_path / "store" / "a.png")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "set" / "3.png").symlink_to(tmp_path / "set" / "3.png")  # round and round
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
    assert dataset.image_ids == [1] and sum(dataset.dropped.values()) == 1
    dataset.summary().encode()


# -- the JSON


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_json_with_a_byte_order_mark(tmp_path, encoding):
    folder, path = write_coco(tmp_path, [box(1)], categories=[{"id": 3, "name": "café"}])
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False), encoding=encoding)
    assert CocoDetection(folder, path).category_names == ["café"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON: an empty file"),
        (b"   \n", "not JSON"),
        (b"\x1f\x8b\x08\0\0\0\0\0", r"not JSON: begins with b'\\x1f"),
        (b"PK\x03\x04", "not JSON: begins with b'PK"),
        (b"id,file_name\n1,a.png", "not JSON: begins with b'id,file"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "not JSON: begins with"),
        (b'[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]', "a list, not an object"),
        (b'{"a": 1}\n{"a": 2}\n', "not JSON: Extra data"),
        (b'{"type": "FeatureCollection", "features": []}', "no list images, annotations, categories"),
        (b'{"images": [{"id": 1}], "annotations": [], "categories": ["cat"]}', r"categories\[0\] has no id"),
        (b'{"images": [], "annotations": [], "categories": []}', "images is empty"),
        (b'{"images": {"1": {}}, "annotations": [], "categories": [{"id": 1}]}', "no list images"),
        (b'{"a": "\xff\xfe"}', "not JSON"),
        (b'{"a":' + b"[" * 100_000, "not JSON"),
        (b'{"images": [{"id": 1}], "info"', "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_json_that_is_not_coco_data(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        CocoDetection(tmp_path, tmp_path / "a.json")
    assert "a.json" in str(error.value) and len(str(error.value)) < 500


def test_a_huge_file_of_the_wrong_kind_is_refused_at_once(tmp_path):
    with open(tmp_path / "a.json", "wb") as file:
        file.write(b"\0\0\0\x20ftypmp42")
        file.truncate(2**40)  # sparse; reading it whole would end the process
    with pytest.raises(ValueError, match="not JSON: begins with b'ftypmp42"):
        CocoDetection(tmp_path, tmp_path / "a.json")


def test_a_pipe_is_no_annotation_file(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        CocoDetection(tmp_path, tmp_path / "a.json")


def test_nan_and_infinity_literals(tmp_path):
    """Python's JSON reads and writes them; each lands where its field's faults land."""
    bad = float("nan")
    images = [entry(1), entry(2) | {"width": bad}, entry(3) | {"id": bad}, entry(4) | {"height": math.inf}]
    annotations = [box(1), box(1, (bad, 1, 2, 3)), box(1) | {"category_id": bad}, box(1) | {"image_id": math.inf},
                   box(1) | {"iscrowd": bad, "area": -math.inf, "id": bad}]  # fmt: skip
    paths = write_coco(tmp_path, annotations, images=[entry(1)])
    paths[1].write_text(json.dumps(json.loads(paths[1].read_text()) | {"images": images}))
    dataset = CocoDetection(*paths)
    assert dict(dataset.dropped) == {
        "malformed images": 3, "malformed boxes": 1, "annotations of unknown categories": 1,
        "annotations of unknown images": 1,
    }  # fmt: skip
    target = dataset[0][1]
    assert target["area"].tolist() == [80, 80] and not target["iscrowd"].any()


@pytest.mark.parametrize("change", [{"id": "2"}, {"id": 2.5}, {"id": True}, {"id": 2**63}, {"width": 0}, {"height": -3},
                                    {"height": "30"}, {"width": 2**31}, {"width": 40.5}, {"file_name": None},
                                    {"file_name": ""}, {"file_name": "a\0.png"}, {"file_name": 7}])  # fmt: skip
def test_one_malformed_image_is_left_out(tmp_path, change):
    paths = write_coco(tmp_path, [box(1), box(2)], images=[entry(1), entry(2)])
    content = json.loads(paths[1].read_text())
    content["images"][1] |= change
    paths[1].write_text(json.dumps(content))
    dataset = CocoDetection(*paths)
    assert dataset.image_ids == [1] and dataset.dropped["malformed images"] == 1
    assert len(dataset.ground_truth()["annotations"]) == 1
    with pytest.raises(ValueError, match=r"images\[1\]"):
        CocoDetection(*paths, strict=True)


def test_entries_that_are_not_objects(tmp_path):
    paths = write_coco(tmp_path, [box(1), None, 3, [box(1)]], images=[entry(1)])
    content = json.loads(paths[1].read_text())
    content["images"] += [None, 3, "2.png", {}]
    paths[1].write_text(json.dumps(content))
    assert dict(CocoDetection(*paths).dropped) == {"malformed images": 4, "malformed annotations": 3}


def test_sides_written_as_floats(tmp_path):
    paths = write_coco(tmp_path, [box(1)], images=[entry(1) | {"width": 40.0, "height": 30.0}])
    assert CocoDetection(*paths, strict=True)[0][1]["orig_size"] == (30, 40)


def test_repeated_image_ids(tmp_path):
    """The same entry again is taken once; one id for two images leaves nobody knowing whose the boxes are."""
    images = [entry(1), entry(1), entry(2), entry(3), entry(2, "3.png")]
    paths = write_coco(tmp_path, [box(1), box(2), box(3)], images=images)
    dataset = CocoDetection(*paths)
    assert dataset.image_ids == [1, 3]
    assert dict(dataset.dropped) == {
        "repeated images": 1, "images that share an id": 1, "annotations of missing images": 1
    }  # fmt: skip
    with pytest.raises(ValueError, match="images has id 2 more than once"):
        CocoDetection(*paths, strict=True)


def test_repeated_file_names(tmp_path):
    """An exporter's image per box: taken apart, every box would be trained as background in the other copies."""
    images = [entry(1, "1.png"), entry(2, "1.png"), entry(3, "./1.png"), entry(4, "4.png")]
    annotations = [box(1), box(2, (1, 1, 9, 9)), box(3, (2, 2, 9, 9)), box(4)]
    dataset = CocoDetection(*write_coco(tmp_path, annotations, images=images))
    assert dataset.image_ids == [1, 4] and len(dataset[0][1]["labels"]) == 3
    assert "2 images listed again under another id, taken as one" in dataset.summary()
    assert {row["image_id"] for row in dataset.ground_truth()["annotations"]} == {1, 4}


def test_repeated_annotation_ids(tmp_path):
    annotations = [box(1), box(1), box(1, (1, 1, 9, 9)), box(2) | {"id": 2}, box(3) | {"id": None}, box(3) | {"id": []}]
    dataset = CocoDetection(*write_coco(tmp_path, annotations))
    assert dict(dataset.dropped) == {"repeated annotations": 1}
    assert dict(dataset.noted) == {"annotations with the id of another": 1}
    ids = [row["id"] for row in dataset.ground_truth()["annotations"]]
    assert len(ids) == 5 and len(set(ids)) == 5 and 0 not in ids


def test_repeated_category_ids(tmp_path):
    same = [{"id": 3, "name": "cat"}, {"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 5, "name": "dog"}]
    assert CocoDetection(*write_coco(tmp_path, [box(1)], categories=same)).category_names == ["cat", "dog"]
    other = [{"id": 3, "name": "cat"}, {"id": 3, "name": "dog"}]
    with pytest.raises(ValueError, match="categories has id 3 more than once: 'cat' and 'dog'"):
        CocoDetection(*write_coco(tmp_path, [box(1)], categories=other))


@pytest.mark.parametrize("name", [None, 7, "", "  ", {"en": "cat"}])
def test_categories_without_a_usable_name(tmp_path, name):
    categories = [{"id": 3, "name": name}, {"id": 9}]
    assert CocoDetection(*write_coco(tmp_path, [box(1)], categories=categories)).category_names == ["3", "9"]


@pytest.mark.parametrize("category", ["3", 3.5, True, 2**63, None])
def test_category_ids_that_are_no_integers(tmp_path, category):
    with pytest.raises(ValueError, match=r"categories\[0\] has id .*, which is not an integer"):
        CocoDetection(*write_coco(tmp_path, [], categories=[{"id": category, "name": "cat"}]))


def test_huge_numbers(tmp_path):
    """Nothing infinite comes of finite numbers: not in training's float32, not in COCO's areas."""
    annotations = [box(1, (-1e300, -1e300, 2e300, 2e300)), box(1, area=1e300), box(2), box(1, (-9e9, 0, 1e10, 5)),
                   box(1) | {"category_id": 10**30}, box(1) | {"image_id": 10**30}]  # fmt: skip
    dataset = CocoDetection(*write_coco(tmp_path, annotations))
    assert dataset.dropped["malformed boxes"] == 2
    assert all(torch.isfinite(dataset[k][1][key]).all() for k in range(3) for key in ("boxes", "area"))


def test_no_annotations_at_all(tmp_path):
    paths = write_coco(tmp_path, [])
    dataset = CocoDetection(*paths)
    assert len(dataset) == 3 and dataset.num_objects == 0 and "file without annotations" in dataset.summary()
    with pytest.raises(ValueError, match="no image left to use"):
        CocoDetection(*paths, keep_empty=False)


def test_the_summary_counts_everything_once(tmp_path, caplog):
    annotations = [box(1), box(1, (30, 20, 100, 5)), box(1, (1, 1, 0, 4)), box(2, category_id=4), box(3), box(8)]
    paths = write_coco(tmp_path, [a | {"id": k} for k, a in enumerate(annotations)])
    (tmp_path / "3.png").unlink()
    (tmp_path / "2.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "detectors"):
        summary = CocoDetection(*paths, verify=True).summary()
    assert summary.split(": ", 1)[1] == (
        "1 images, 2 boxes (0 crowd), 3 categories; dropped: 1 annotations of missing images, "
        "1 annotations of unknown categories, 1 annotations of unknown images, 1 boxes without area, "
        "1 broken images, 1 missing images; noted: 1 boxes clipped to the image"
    )
    assert caplog.messages[-1] == summary and any("2.png" in message for message in caplog.messages)


_JUNK = [None, True, "", "1.png", "../x", 0, -1, 2, 3, 1.5, 1e308, -1e308, 10**30, float("nan"), [], {}, [1, 2, 3, 4],
         [[]], {"id": 1}, "\ud800", "a" * 300]  # fmt: skip


def _spoil(value, draw):
    """`value` with one thing in it replaced, removed or repeated, anywhere."""
    if isinstance(value, (list, dict)) and value and draw(st.integers(0, 9)) > 0:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw(st.sampled_from(keys))
        value[key] = _spoil(value[key], draw)
        if isinstance(value, list) and draw(st.integers(0, 5)) == 0:
            value.append(copy.deepcopy(value[key]))
        return value
    return copy.deepcopy(draw(st.sampled_from(_JUNK)))


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    return tmp_path_factory.mktemp("spoilt")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), faults=st.integers(1, 4), strict=st.booleans())
def test_whatever_the_json_holds(spoilt, data, faults, strict):
    """A set that can be used, or one of the two documented errors, in a line."""
    folder, path = write_coco(spoilt, [box(1), box(2) | {"id": 2}, box(3) | {"id": 3}])
    content = json.loads(path.read_text())
    for _ in range(faults):
        content = _spoil(content, data.draw)
    path.write_text(json.dumps(content))
    try:
        dataset = CocoDetection(folder, path, strict=strict)
    except (ValueError, FileNotFoundError) as error:
        assert str(error) and "\n" not in str(error)
        return
    dataset.summary().encode()
    for index in range(len(dataset)):
        try:
            image, target = dataset[index]
        except (ImageDecodeError, DataError):  # no image has the size that its entry says
            assert strict or len(dataset.broken) == len(dataset)
            continue
        boxes, (height, width) = target["boxes"], target["orig_size"]
        assert image.shape == (3, height, width)
        assert torch.isfinite(boxes).all() and torch.isfinite(target["area"]).all()
        assert (boxes[:, :2] < boxes[:, 2:]).all() and (boxes >= 0).all()
        assert (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        assert ((target["labels"] >= 1) & (target["labels"] <= dataset.num_classes)).all()
    CocoEvaluator(dataset).summarize()


# -- decoding all at the start


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", [False, True])
def test_verify_leaves_broken_images_out(tmp_path, workers, cache):
    images = [entry(k) for k in range(1, 40)]
    paths = write_coco(tmp_path, [box(k, (1, 1, k, 5)) for k in range(1, 40)], images=images, files=False)
    for k in range(1, 40):
        Image.new("RGB", (40, 30), (k, k, k)).save(tmp_path / f"{k}.png")
    (tmp_path / "5.png").write_bytes((tmp_path / "5.png").read_bytes()[:50])
    (tmp_path / "39.png").write_bytes(b"no")
    noise(31, 40).save(tmp_path / "20.png")
    torch.manual_seed(0)
    state = torch.get_rng_state()
    dataset = CocoDetection(*paths, verify=True, workers=workers, cache=cache)
    assert torch.equal(torch.get_rng_state(), state)
    assert dataset.image_ids == [k for k in range(1, 40) if k not in (5, 20, 39)]
    assert dict(dataset.dropped) == {"broken images": 3, "annotations of broken images": 3}
    for index, image_id in enumerate(dataset.image_ids):  # images, boxes and files stay together
        image, target = dataset[index]
        assert (image == image_id).all() and target["boxes"].tolist() == [[1, 1, min(1 + image_id, 40), 6]]
    assert not dataset.broken
    with pytest.raises(ValueError, match=r"3 of 39 images cannot be used: .*5\.png.*20\.png.*39\.png"):
        CocoDetection(*paths, verify=True, workers=workers, strict=True)


def test_verify_with_nothing_left(tmp_path):
    paths = write_coco(tmp_path, [box(1)])
    for k in (1, 2, 3):
        (tmp_path / f"{k}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="3 of 3 images cannot be used"):
        CocoDetection(*paths, verify=True)


def _verify_on_rank(rank: int, folder: Path, queue) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2
    )
    dataset = CocoDetection(folder, folder / "instances.json", verify=True)
    queue.put((rank, dataset.image_ids))
    torch.distributed.destroy_process_group()


def test_verify_agrees_on_all_ranks(tmp_path):
    write_coco(tmp_path, [box(1)], images=[entry(k) for k in range(1, 8)])
    for k in (2, 5):  # one in each rank's half
        (tmp_path / f"{k}.png").write_bytes(b"")
    context = torch.multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    ranks = [context.Process(target=_verify_on_rank, args=(rank, tmp_path, queue)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    assert sorted([queue.get(), queue.get()]) == [(0, [1, 3, 4, 6, 7]), (1, [1, 3, 4, 6, 7])]


# -- loading


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_does_not_end_an_epoch(tmp_path, workers, caplog):
    paths = write_coco(tmp_path, [box(k) for k in (1, 2, 3)])
    (tmp_path / "2.png").write_bytes(b"")
    dataset = CocoDetection(*paths)
    with caplog.at_level(logging.WARNING, "detectors"):
        batches = list(build_loader(dataset, 1, shuffle=False, num_workers=workers))
    assert [targets[0]["image_id"] for _, targets in batches] == [1, 3, 3]
    assert all("skipped" not in targets[0] for _, targets in batches)
    assert list(dataset.broken) == ["2.png"] and "1 broken images" in dataset.summary()
    assert sum("image skipped" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_strict_ends_the_epoch_in_a_line(tmp_path, workers):
    paths = write_coco(tmp_path, [box(k) for k in (1, 2, 3)])
    (tmp_path / "2.png").write_bytes(b"")
    loader = build_loader(CocoDetection(*paths, strict=True), 1, shuffle=False, num_workers=workers)
    with pytest.raises(ImageDecodeError, match=r"2\.png cannot be decoded: an empty file$"):
        list(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_all_vanish_end_the_epoch(tmp_path, workers):
    dataset = CocoDetection(*write_coco(tmp_path, [box(1)]))
    for k in (1, 2, 3):
        (tmp_path / f"{k}.png").unlink()
    with pytest.raises(DataError, match="none of the 3 images in .* can be read: .*No such file"):
        list(build_loader(dataset, 1, shuffle=False, num_workers=workers))


class Deadly(Dataset):
    """A worker that has item 5 is killed, as by the system when memory is short."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(3, 4, 4, dtype=torch.uint8), {"image_id": index}


def test_a_killed_worker_ends_the_run():
    began = time.monotonic()
    with pytest.raises((DataError, RuntimeError)) as error:
        for _ in build_loader(Deadly(), 2, shuffle=False, num_workers=2):
            time.sleep(0.01)
    told = error.value if isinstance(error.value, DataError) else death_of_worker(error.value)
    assert re.search(r"a process that loads data died \((DataLoader worker \(pid|\w+Error).*data.workers=0", str(told))
    assert time.monotonic() - began < 60


def test_other_errors_are_no_death_of_a_worker():
    assert death_of_worker(RuntimeError("CUDA out of memory")) is None


SIGNALLED = """
import os, signal, subprocess, time
import torch
from detectors.data import build_loader
from detectors.data.loader import start_worker

class Pids(torch.utils.data.Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        return torch.zeros(3, 4, 4, dtype=torch.uint8), {"image_id": os.getpid()}

def stuck(ready):
    start_worker(0)
    ready.set()
    time.sleep(600)

# a scheduler's SIGTERM reaches all processes; the main one ends the run, with a checkpoint
iterator = iter(build_loader(Pids(), 1, shuffle=False, num_workers=1))
worker = next(iterator)[1][0]["image_id"]
assert worker != os.getpid()
subprocess.run(["kill", "-TERM", str(worker)], check=True)  # not from this process, whose it would heed
os.kill(worker, signal.SIGINT)
assert len(list(iterator)) == 63
# one that is stuck, at exit
context = torch.multiprocessing.get_context("fork")
ready = context.Event()
process = context.Process(target=stuck, args=(ready,))
process.start()
assert ready.wait(60)
process.terminate()
process.join(30)
assert process.exitcode == 128 + signal.SIGTERM, process.exitcode
"""


def test_workers_leave_signals_to_the_main_process_which_can_end_them():
    """In a process of its own: other tests leave threads behind, which signals may reach instead."""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", SIGNALLED], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# -- whole runs


TINY = {
    "model.backbone": "resnet18",
    "model.weights": "none",
    "model.norm": "bn",
    "model.fpn_channels": "64",
    "model.num_convs": "1",
    "data.short_side": "96",
    "data.long_side": "128",
    "schedule.batch_size": "2",
    "run.device": "cpu",
    "run.threads": "1",
    "run.correlation": "false",
}


@pytest.fixture
def program(tmp_path, monkeypatch, capsys):
    """train.py on a data set of 40 x 30 images in tmp_path/data: arguments -> exit code, stdout, stderr."""
    for split in ("train", "val"):
        (tmp_path / "data" / "annotations").mkdir(parents=True, exist_ok=True)
        _, path = write_coco(tmp_path / "data" / split, [box(1) | {"id": 1}, box(2) | {"id": 2}])
        path.rename(tmp_path / "data" / "annotations" / f"instances_{split}.json")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def run(*arguments, **settings):
        sets = [part for key, value in (TINY | settings).items() for part in ("--set", f"{key}={value}")]
        code = train.main(["--data", "data", "--quiet", "--epochs", "1", "--out", "run", *arguments, *sets])
        return code, *capsys.readouterr()

    yield run
    torch.set_num_threads(threads)


def test_a_run_tells_what_it_left_out(program, tmp_path):
    (tmp_path / "data" / "train" / "3.png").write_bytes(b"")
    code, out, error = program(**{"data.verify": "true", "data.cache": "true"})
    assert code == 0, error
    assert "train.json: 2 images, 2 boxes (0 crowd), 3 categories; dropped: 1 broken images" in out
    assert "dropped: 1 broken images" in (tmp_path / "run" / "log.txt").read_text()
    code, _, error = program("--strict", **{"data.verify": "true"})
    assert code == 2 and error.startswith("train.py: ") and "3.png cannot be decoded: an empty file" in error
    code, _, error = program("--strict")
    assert code == 2 and re.fullmatch(r"train\.py: \S*3\.png cannot be decoded: an empty file\n", error)


def test_nothing_to_learn_ends_the_run(program, tmp_path):
    path = tmp_path / "data" / "annotations" / "instances_train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": [box(1, (5, 5, 0, 0))]}))
    code, _, error = program()
    assert code == 2 and "nothing to learn, no object in" in error and "1 boxes without area" in error


def test_other_categories_in_validation_end_the_run(program, tmp_path):
    path = tmp_path / "data" / "annotations" / "instances_val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"categories": [{"id": 3, "name": "cat"}]}))
    code, _, error = program()
    assert code == 2 and "the categories of" in error and "are not those of" in error


def test_a_killed_worker_ends_training(program, monkeypatch):
    load = CocoDetection.load_image

    def deadly(self, index):
        if torch.utils.data.get_worker_info() is not None and self.image_ids[index] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, index)

    monkeypatch.setattr(CocoDetection, "load_image", deadly)
    code, _, error = program(**{"data.workers": "2"})
    assert code == 2 and error.count("\n") == 1
    assert error.startswith("train.py: a process that loads data died (")


def test_several_scales_in_training_one_in_evaluation(program, tmp_path):
    config = Config()
    for key, value in {"data.data": "data", "data.short_side": "24,30,36", "data.long_side": "64"}.items():
        config = override(config, key, value)
    train_set, val_set = build_datasets(config, tmp_path)
    seen = {min(train_set[0][0].shape[1:]) for _ in range(60)}
    assert seen == {24, 30, 36} and min(val_set[0][0].shape[1:]) == 36
    fixed = build_validation_set(override(config, "data.eval_short_side", "30"), tmp_path)
    assert min(fixed[0][0].shape[1:]) == 30
    assert build_validation_set(override(config, "data.val_is_train", "true"), tmp_path).image_dir.name == "train"
