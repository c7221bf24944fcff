"""The picture of a data set: which part of an image is shown, and what is drawn there."""

from __future__ import annotations

import numpy as np
import pytest
from coco_files import box, entry, write_coco
from PIL import Image

from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.visualization import contact_sheet as module
from mlc_ext.detectors.visualization.contact_sheet import contact_sheet

TILE = 640


def data(folder, size, boxes, **extra):
    paths = write_coco(folder, [box(1, each) | {"id": k} | extra for k, each in enumerate(boxes, 1)],
                       images=[entry(1, "1.png", *size)], files=False)  # fmt: skip
    Image.new("RGB", size, (90, 90, 90)).save(folder / "1.png")
    return CocoDetection(*paths)


def drawn(folder, size, boxes, monkeypatch, **extra):
    """What a tile of the image has: (width, height) of the part, its boxes in it, their names, the picture's size."""
    calls = []

    def record(image, boxes, colors, texts):
        calls.append((image.shape[:0:-1], boxes.tolist(), list(texts)))
        return draw(image, boxes, colors, texts)

    draw = module.draw_boxes
    monkeypatch.setattr(module, "draw_boxes", record)
    dataset = data(folder, size, boxes, **extra)
    picture = contact_sheet([("train", dataset)], 1)
    assert picture.width == 3 * (TILE + 6) + 6 and picture.height <= TILE + 24 + 12
    return calls[0]


def test_an_ordinary_image_is_shown_as_a_whole(tmp_path, monkeypatch):
    part, boxes, names = drawn(tmp_path, (1280, 960), [(100, 200, 300, 400), (20, 20, 30, 30)], monkeypatch)
    assert tuple(part) == (640, 480) and names == ["bird", "bird"]
    assert boxes == [[10, 10, 25, 25], [50, 100, 200, 300]]  # the smaller one is drawn on top


@pytest.mark.parametrize("size", [(4000, 3000), (200, 5000), (6000, 90), (1000, 1000), (70, 70)])
@pytest.mark.parametrize("side", [1, 5, 60])
def test_boxes_can_be_seen(tmp_path, monkeypatch, size, side):
    rng = np.random.default_rng(size[0] + side)
    places = rng.uniform(0, np.array(size) - side, (9, 2))
    part, boxes, _ = drawn(tmp_path, size, [(*place, side, side) for place in places.tolist()], monkeypatch)
    assert boxes and max(part) <= 3 * min(part) + 1
    rows = np.array(boxes)
    assert (rows[:, 2:] > 0).all() and (rows[:, :2] < np.array(part)).all()  # no box that lies beside the part
    scale = float((rows[:, 2:] - rows[:, :2]).max()) / side
    shown = TILE / max(part) if max(part) < TILE else 1  # a small part is enlarged
    assert side * scale * shown >= 11.9 or round(max(part) / scale) <= 64


def test_the_names_of_the_largest_boxes_of_many(tmp_path, monkeypatch):
    boxes = [(k, k, 20 + k, 20 + k) for k in range(100)]
    _, rows, names = drawn(tmp_path, (400, 400), boxes, monkeypatch)
    assert len(rows) == 100 and names == [""] * 60 + ["bird"] * 40
    sides = [row[2] - row[0] for row in rows]
    assert sides == sorted(sides)


def test_a_crowd_is_marked(tmp_path, monkeypatch):
    assert drawn(tmp_path, (100, 100), [(5, 5, 50, 50)], monkeypatch, iscrowd=1)[2] == ["bird (crowd)"]


def test_the_part_is_in_the_middle_of_the_boxes(tmp_path, monkeypatch):
    boxes = [(3000 + 6 * k, 2000, 5, 5) for k in range(9)]
    assert len(drawn(tmp_path, (4000, 3000), [(0, 0, 5, 5), *boxes], monkeypatch)[1]) == 9


@pytest.mark.parametrize(("count", "shares"), [(8, [6, 2]), (4, [3, 1]), (1, [1, 1]), (100, [10, 10])])
def test_three_quarters_are_of_the_first_data_set(tmp_path, monkeypatch, count, shares):
    sets, names = [], []
    for name in ("train", "val"):
        paths = write_coco(tmp_path / name, [box(k) for k in range(1, 11)], images=[entry(k) for k in range(1, 11)])
        sets.append((name, CocoDetection(*paths)))
    tile = module._tile
    monkeypatch.setattr(module, "_tile", lambda name, *rest: names.append(name) or tile(name, *rest))
    contact_sheet(sets, count)
    assert [names.count(name) for name, _ in sets] == shares


def test_no_box(tmp_path, monkeypatch):
    part, boxes, _ = drawn(tmp_path, (100, 1000), [], monkeypatch)
    assert not boxes and tuple(part) == (100, 300)
