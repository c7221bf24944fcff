"""The recipes of docs/your-detector.md, taken from the page and trained with toy models."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import mlc_ext

PAGE = Path(__file__).resolve().parents[2] / "docs" / "your-detector.md"
IMAGE_SIZE = 64


def encode(boxes, anchors):
    size, gt_size = (b[:, 2:] - b[:, :2] for b in (anchors, boxes))
    center, gt_center = ((b[:, 2:] + b[:, :2]) / 2 for b in (anchors, boxes))
    return torch.cat([(gt_center - center) / size, (gt_size / size).clamp(min=1e-6).log()], dim=1)


def decode(deltas, anchors):
    size = anchors[:, 2:] - anchors[:, :2]
    center = (anchors[:, 2:] + anchors[:, :2]) / 2 + deltas[:, :2] * size
    size = size * deltas[:, 2:].clamp(max=4).exp()
    return torch.cat([center - size / 2, center + size / 2], dim=1)


@pytest.fixture(scope="module")
def page():
    """The names that the page's code blocks define."""
    names = {"torch": torch, "mlc_ext": mlc_ext, "encode": encode, "decode": decode}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
        exec(compile(block, PAGE.name, "exec"), names)
    return names


def targets_of(first_label):
    """Two images with boxes and one without."""
    boxes = ([[4.0, 4, 36, 40], [30, 26, 60, 62]], [[10, 20, 50, 44.0]], [])
    labels = ([0, 2], [1], [])
    return [
        {"boxes": torch.tensor(b).reshape(-1, 4), "labels": torch.tensor(c, dtype=torch.int64) + first_label}
        for b, c in zip(boxes, labels, strict=True)
    ]


def points_of(stride):
    at = (torch.arange(IMAGE_SIZE // stride) + 0.5) * stride
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


class Anchors:
    """A prediction of its own for each image and anchor."""

    name, detector = "anchor_based_losses", "retinanet"

    def __init__(self):
        sides = torch.tensor([[24.0, 24], [36, 36], [24, 36], [36, 24]])
        centers = points_of(8)
        corners = [torch.cat([c - sides / 2, c + sides / 2], dim=1) for c in centers]
        self.anchors, self.targets = torch.cat(corners), targets_of(1)
        self.outputs = [nn.Parameter(torch.randn(3, len(self.anchors), n) * 0.1 - bias) for n, bias in ((3, 3), (4, 0))]
        self.iou = nn.Parameter(torch.zeros(3, len(self.anchors)))

    def losses(self, recipe, config, mutual, rescoring=True):
        return recipe(*self.outputs, self.iou, self.anchors, self.targets, config, mutual, rescoring)


class Points:
    name, detector = "anchor_free_losses", "fcos"

    def __init__(self):
        self.points, self.strides = [points_of(4), points_of(8)], (4, 8)
        count, self.targets = sum(map(len, self.points)), targets_of(1)
        self.outputs = [nn.Parameter(torch.randn(3, count, 3) * 0.1 - 3), nn.Parameter(torch.rand(3, count, 4) * 9 + 9)]
        self.iou = nn.Parameter(torch.zeros(3, count))

    def losses(self, recipe, config, mutual, rescoring=True):
        return recipe(*self.outputs, self.iou, self.points, self.strides, self.targets, config, mutual, rescoring)


class Queries:
    name, detector = "one_to_many_losses", "fcos"

    def __init__(self):
        self.targets = targets_of(0)
        corner = torch.rand(3, 30, 2) * 30
        boxes = torch.cat([corner, corner + 10 + torch.rand(3, 30, 2) * 24], dim=2)
        self.outputs = [nn.Parameter(torch.randn(3, 30, 3) * 0.1 - 3), nn.Parameter(boxes)]
        self.iou = nn.Parameter(torch.zeros(3, 30))

    def losses(self, recipe, config, mutual, rescoring=True):
        logits, boxes = self.outputs
        cost = [
            -mlc_ext.box_iou(b, t["boxes"]) - s[:, t["labels"]].sigmoid()
            for b, s, t in zip(boxes.detach(), logits.detach(), self.targets, strict=True)
        ]
        return recipe(logits, boxes, self.iou, cost, self.targets, config, mutual, rescoring, IMAGE_SIZE)


@pytest.mark.parametrize("kind", [Anchors, Points, Queries])
def test_recipe_trains(page, kind):
    torch.manual_seed(0)
    toy, recipe = kind(), page[kind.name]
    config = mlc_ext.MLCConfig.paper(kind.detector)
    first = {mutual: toy.losses(recipe, config, mutual) for mutual in (False, True)}
    assert set(first[True]) == {"classification", "box", "iou_rescoring"}
    assert first[True]["classification"] != first[False]["classification"]
    assert first[True]["box"] != first[False]["box"]
    before = toy.losses(recipe, config, True, rescoring=False)
    assert before["box"] == first[True]["box"] and before["iou_rescoring"] == 0 < first[True]["iou_rescoring"]
    parameters = [*toy.outputs, toy.iou]
    optimizer = torch.optim.Adam(parameters, 0.1)
    for step in range(120):
        losses = toy.losses(recipe, config, step >= 60)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
        optimizer.step()
    assert sum(losses.values()) < 0.3 * sum(first[False].values())
    # the class column is that of the label: the best box of every gt has its class
    first_label = 0 if kind is Queries else 1
    for i, target in enumerate(toy.targets):
        for label in target["labels"].tolist():
            assert toy.outputs[0][i].sigmoid().amax(0)[label - first_label] > 0.5
        absent = set(range(3)) - {label - first_label for label in target["labels"].tolist()}
        assert all(toy.outputs[0][i].sigmoid().amax(0)[column] < 0.5 for column in absent)


@pytest.mark.parametrize("kind", [Anchors, Points, Queries])
def test_recipe_without_boxes(page, kind):
    torch.manual_seed(0)
    toy = kind()
    toy.targets = [{name: value[:0] for name, value in target.items()} for target in toy.targets]
    for mutual in (False, True):
        losses = toy.losses(page[kind.name], mlc_ext.MLCConfig.paper(kind.detector), mutual)
        sum(losses.values()).backward()
        assert losses["box"] == 0 and losses["iou_rescoring"] == 0 and losses["classification"] > 0
        assert all(p.grad.isfinite().all() for p in (*toy.outputs, toy.iou))


@pytest.mark.parametrize("kind", [Anchors, Points, Queries])
def test_recipe_without_an_iou_layer(page, kind):
    torch.manual_seed(0)
    toy = kind()
    toy.iou = None
    losses = toy.losses(page[kind.name], mlc_ext.MLCConfig.paper(kind.detector, iur=False), True)
    assert set(losses) == {"classification", "box"} and all(loss > 0 for loss in losses.values())


def test_recipe_creates_tensors_on_the_device_of_its_inputs(page):
    torch.manual_seed(0)
    toy, config = Queries(), mlc_ext.MLCConfig.paper("fcos")
    expected = toy.losses(page[Queries.name], config, True)
    with torch.device("meta"):  # a tensor that is created without a device would be there
        losses = toy.losses(page[Queries.name], config, True)
    assert losses == expected


def test_recipe_with_fewer_queries_than_k(page):
    torch.manual_seed(0)
    toy = Queries()
    toy.outputs = [nn.Parameter(x[:, :4].detach()) for x in toy.outputs]
    toy.iou = nn.Parameter(toy.iou[:, :4].detach())
    assert toy.losses(page[Queries.name], mlc_ext.MLCConfig.paper("fcos"), True)["box"] > 0


def test_recipes_are_short():
    for block in re.findall(r"```python\n(def .*?)```", PAGE.read_text(), re.S):
        assert len(block.splitlines()) <= 28


def test_schedule_of_the_page(page):
    assert page["config"].alpha == 0.5 and page["mutual"] and page["rescoring"]
