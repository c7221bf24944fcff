"""Drawings: boxes, tags and priors where they belong, on images of any size."""

import numpy as np
import pytest
import torch

from mlc_ext.detectors.visualization.drawing import (
    NEGATIVE,
    POSITIVE,
    class_color,
    draw_boxes,
    draw_detections,
    draw_priors,
    side_by_side,
)


def gray(height, width, value=128):
    return torch.full((3, height, width), value, dtype=torch.uint8)


def pixels(picture):
    return np.asarray(picture).astype(int)


def detections(boxes, labels, scores):
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64),
            "scores": torch.tensor(scores)}  # fmt: skip


def test_colors_of_classes():
    colors = [class_color(label) for label in range(1, 91)]
    assert colors == [class_color(label) for label in range(1, 91)] and len(set(colors)) == 90
    assert all(max(color) >= 180 for color in colors)
    near = [np.abs(np.subtract(a, b)).sum() for a, b in zip(colors[:-1], colors[1:], strict=True)]
    assert min(near) > 100


@pytest.mark.parametrize(("height", "width", "zoom"), [(16, 16, 8), (120, 160, 4), (427, 640, 1), (900, 1500, 1)])
def test_box_edges(height, width, zoom):
    box = torch.tensor([[width * 0.25, height * 0.5, width * 0.75, height * 0.75]])
    picture = draw_boxes(gray(height, width), box, [(255, 0, 0)])
    assert picture.size == (width * zoom, height * zoom)
    red = (pixels(picture) == (255, 0, 0)).all(-1)
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    expected = [v * zoom for v in (width * 0.25, height * 0.5, width * 0.75, height * 0.75)]
    found = [columns[0], rows[0], columns[-1], rows[-1]]
    assert np.abs(np.subtract(found, expected)).max() <= 1
    inside = red[rows[0] + 12 * zoom // 8 + 8 : rows[-1] - 12, columns[0] + 12 : columns[-1] - 12]
    assert not inside.any()  # an outline, not an area


def test_hostile_boxes_draw_without_an_error():
    boxes = torch.tensor([[-1e9, -1e9, 1e9, 1e9], [float("nan"), 0, 5, 5], [9, 9, 3, 3], [40, 40, 50, 50], [5, 5, 5, 5],
                          [0, 0, float("inf"), 5]])  # fmt: skip
    draw_boxes(gray(30, 30), boxes, [(255, 0, 0)] * 6, ["all", "nan", "turned", "outside", "\x1b[2J\nx" * 30, "猫 0.5"])
    for height, width in ((1, 1), (1, 300), (300, 1)):
        draw_boxes(gray(height, width), torch.tensor([[0.0, 0.0, width, height]]), [(0, 0, 0)], ["long name 0.99"])
    draw_boxes(gray(30, 30), torch.zeros(0, 4), [])


@pytest.mark.parametrize("corner", [(0, 0), (600, 0), (0, 460), (610, 470)])
def test_tags_stay_in_the_picture(corner):
    x, y = corner
    found = detections([[x, y, x + 20.0, y + 8.0]], [1], [0.5])
    picture = pixels(draw_detections(gray(480, 640), found, ["giraffe"]))
    bare = pixels(draw_boxes(gray(480, 640), found["boxes"], [class_color(1)]))
    changed = (picture != bare).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert columns[-1] - columns[0] > 50 and 10 < rows[-1] - rows[0] < 40  # the whole tag shows
    assert abs(rows[0] - y) < 60 and abs(columns[0] - x) < 120  # near its box


def test_tags_grow_with_the_picture():
    def height(side):
        found = detections([[side / 2, side / 2, side * 0.9, side * 0.9]], [1], [0.5])
        picture = pixels(draw_detections(gray(side, side), found, ["x"]))
        bare = pixels(draw_boxes(gray(side, side), found["boxes"], [class_color(1)]))
        rows = np.flatnonzero((picture != bare).any(-1).any(1))
        return (rows[-1] - rows[0]) / side

    assert height(3000) == pytest.approx(height(700), rel=0.4)


def test_the_best_box_is_on_top():
    found = detections([[10.0, 10.0, 600.0, 400.0]] * 2, [1, 2], [0.9, 0.1])
    picture = pixels(draw_boxes(gray(480, 640), found["boxes"], [class_color(1), class_color(2)]))
    assert (picture[200, 10] == class_color(1)).all()


def test_priors():
    centers = torch.tensor([[20.0, 20.0], [60.0, 20.0], [60.0, 20.0], [20.0, 60.0]])
    positive = torch.tensor([True, False, True, False])  # of two anchors at one place the positive one shows
    picture = pixels(draw_priors(gray(80, 80), centers, positive, torch.tensor([[10.0, 10.0, 70.0, 70.0]])))
    zoom = picture.shape[0] // 80
    for (x, y), color in zip([(20, 20), (60, 20), (20, 60)], [POSITIVE, POSITIVE, NEGATIVE], strict=True):
        assert (picture[y * zoom, x * zoom] == color).all()
    assert (picture[40 * zoom, 10 * zoom] == 255).all() and (picture[40 * zoom, 40 * zoom] == 85).all()
    draw_priors(gray(80, 80), torch.zeros(0, 2), torch.zeros(0, dtype=torch.bool))


def test_side_by_side():
    parts = [draw_boxes(gray(640, 700, v), torch.zeros(0, 4), []) for v in (10, 20, 30)]
    row = pixels(side_by_side(parts, ["a", "b", "c"]))
    assert row.shape[1] == 3 * 704 - 4 and [row[-1, k * 704 + 350, 0] for k in range(3)] == [10, 20, 30]
