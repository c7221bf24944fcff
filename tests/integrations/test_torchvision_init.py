"""A detector that starts from torchvision's file gives torchvision's detections."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from initialized import assert_same_detections, images, in_documentation, random_statistics, started
from torchvision.models.detection import (
    FasterRCNN_ResNet50_FPN_Weights,
    FCOS_ResNet50_FPN_Weights,
    RetinaNet_ResNet50_FPN_V2_Weights,
    RetinaNet_ResNet50_FPN_Weights,
    fasterrcnn_resnet50_fpn,
    fcos_resnet50_fpn,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
)

from mlc_ext.detectors.config.presets import preset
from mlc_ext.detectors.initialization.coco_classes import COCO_CLASSES, COCO_COLUMNS
from mlc_ext.detectors.initialization.initialize import plan_from
from mlc_ext.detectors.models.build import build_model

DOCUMENTATION = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()
CLASSES = list(COCO_CLASSES.values())
LABELS = torch.tensor([0, *COCO_CLASSES])
"""Category id of this project's label."""

CASES = {
    "fcos": (
        fcos_resnet50_fpn,
        {
            "detector": "fcos",
            "norm_on_bbox": True,
            "centerness_on": "reg",
            "tower_norm": "gn_bias",
            "nms_threshold": 0.6,
        },
        {"score_thresh": 0.05, "detections_per_img": 300},
    ),
    "retinanet": (
        retinanet_resnet50_fpn,
        {"detector": "retinanet", "extra_levels": "p5_relu", "torchvision_anchors": True},
        {"score_thresh": 0.05},
    ),
    "retinanet_v2": (
        retinanet_resnet50_fpn_v2,
        {"detector": "retinanet", "extra_levels": "c5_relu", "torchvision_anchors": True, "tower_norm": "gn"},
        {"score_thresh": 0.05},
    ),
}


def untrained(make, **options):
    """torchvision's detector with random statistics, on images as they are."""
    model = make(weights=None, weights_backbone=None, min_size=128, max_size=256, **options).eval()
    random_statistics(model)
    return model


def only_classes(model) -> None:
    """Columns of torchvision's 91 that are no class never score."""
    layer = model.head.classification_head.cls_logits
    nothing = torch.tensor([True, *(name is None for name in COCO_COLUMNS)])
    with torch.no_grad():
        layer.bias.unflatten(0, (-1, 91))[:, nothing] = -100.0


@pytest.mark.parametrize("name", CASES)
def test_same_detections(name, tmp_path):
    make, settings, options = CASES[name]
    theirs = untrained(make, **options)
    only_classes(theirs)
    if name == "fcos":  # no distance ends at 0 here or there
        with torch.no_grad():
            theirs.head.regression_head.bbox_reg.bias += 4
    torch.save(theirs.state_dict(), tmp_path / "detector.pth")
    ours, transfer, table = started(tmp_path / "detector.pth", CLASSES, **settings)
    assert not transfer.other_settings and "differ" not in table
    assert all(part.taken == part.total for part in transfer.parts)
    threshold = 0.05 if name != "fcos" else 0.0
    ours.postprocessor = dataclasses.replace(
        ours.postprocessor, score_threshold=threshold, max_detections=300, min_size=-1.0
    )  # torchvision keeps boxes that clipping leaves without area
    with torch.no_grad():
        expected, found = theirs(images()), ours(images())
    for each in found:
        each["labels"] = LABELS[each["labels"]]
        if name == "fcos":
            each["scores"] = each["scores"].sqrt()
    assert_same_detections(found, expected)


def test_same_proposals(tmp_path):
    """Of the RPN of Faster R-CNN, whose other heads are reported."""
    theirs = untrained(fasterrcnn_resnet50_fpn)
    torch.save(theirs.state_dict(), tmp_path / "detector.pth")
    ours, transfer, table = started(tmp_path / "detector.pth", CLASSES, detector="rpn", torchvision_anchors=True)
    assert all(part.taken == part.total for part in transfer.parts) and "roi_heads (8)" in table
    ours.postprocessor = dataclasses.replace(ours.postprocessor, pre_nms_top_k=1000, min_size=1e-3)
    with torch.no_grad():
        batch, _ = theirs.transform(images())
        boxes, _ = theirs.rpn(batch, theirs.backbone(batch.tensors))
        found = ours(images())
    for each, expected in zip(found, boxes, strict=True):
        assert len(each["boxes"]) == len(expected) > 20
        assert (torch.cdist(each["boxes"], expected, p=float("inf")).min(1).values < 5e-4).all()


@pytest.mark.parametrize("name", CASES)
def test_the_structure_that_is_missing(name, tmp_path):
    """With the detector's own structure the table names the settings that would give torchvision's detections."""
    make, settings, _ = CASES[name]
    torch.save(untrained(make).state_dict(), tmp_path / "detector.pth")
    _, transfer, table = started(tmp_path / "detector.pth", CLASSES, detector=settings["detector"])
    assert {key: theirs for key, (theirs, _) in transfer.other_settings.items()} == {
        key: value for key, value in settings.items() if key not in ("detector", "nms_threshold")
    }  # the file does not have its threshold
    assert "the detections differ from the file's" in table
    taken = {part.name: part.taken for part in transfer.parts}
    expected = {
        "fcos": {"extra levels": 4, "class tower": 12, "class layer": 2, "box layer": 0, "centerness layer": 0},
        "retinanet": {"extra levels": 0, "class tower": 8, "class layer": 2, "box layer": 2},
        "retinanet_v2": {"extra levels": 4, "class tower": 0, "class layer": 0, "box layer": 0},
    }[name]
    assert {part: taken[part] for part in expected} == expected and taken["backbone"] == 265


def test_columns_are_torchvisions_categories():
    for weights in (FCOS_ResNet50_FPN_Weights, RetinaNet_ResNet50_FPN_Weights, RetinaNet_ResNet50_FPN_V2_Weights):
        names = weights.COCO_V1.meta["categories"]
        assert [None if name == "N/A" else name for name in names[1:]] == list(COCO_COLUMNS)


@pytest.mark.parametrize(
    "weights",
    [
        FCOS_ResNet50_FPN_Weights,
        RetinaNet_ResNet50_FPN_Weights,
        RetinaNet_ResNet50_FPN_V2_Weights,
        FasterRCNN_ResNet50_FPN_Weights,
    ],
)
def test_the_documentation_names_the_published_file(weights):
    name = weights.COCO_V1.url.rpartition("/")[2]
    assert f"| `{name}` | torchvision `{weights.__name__}.COCO_V1` |" in DOCUMENTATION


@pytest.mark.parametrize(
    ("name", "row"), [("fcos", "FCOS"), ("retinanet", "RetinaNet"), ("retinanet_v2", "RetinaNet v2")]
)
def test_the_documentation_has_the_settings(name, row):
    assert f"| torchvision {row} | `{in_documentation(CASES[name][1])}` |" in DOCUMENTATION


def test_the_table_of_the_documentation(tmp_path, monkeypatch):
    """Of a file with random weights that has the published one's name and structure."""
    monkeypatch.chdir(tmp_path)
    path = Path(FCOS_ResNet50_FPN_Weights.COCO_V1.url.rpartition("/")[2])
    torch.save(untrained(fcos_resnet50_fpn).state_dict(), path)
    config = preset("fcos_r50_mlc")
    _, table = plan_from(path, build_model(config, 3), config.model, ["person", "dog", "zebu"])
    assert f"```\n{table}\n```" in DOCUMENTATION
