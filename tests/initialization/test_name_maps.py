"""Names of other libraries' files: every tensor gets to its place, in every version's spelling."""

from __future__ import annotations

import pytest
import torch
from foreign import as_mmdetection, as_torchvision, small, with_background

from mlc_ext.detectors.initialization.coco_classes import COCO_CLASSES, COCO_COLUMNS
from mlc_ext.detectors.initialization.initialize import plan_from, read_source
from mlc_ext.detectors.initialization.mmdetection import class_names, written_config

CONFIG = """
model = dict(
    data_preprocessor=dict(mean=[102.9801, 115.9465, 122.7717], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(type='ResNet', style='caffe'),
    neck=dict(add_extra_convs='on_output', relu_before_extra_convs=True),
    bbox_head=dict(norm_on_bbox=True, centerness_on_reg=True, loss=FocalLoss(gamma=two())))
load_from = open('/nowhere')
"""


def source_of(content, tmp_path):
    torch.save(content, tmp_path / "detector.pth")
    return read_source(tmp_path / "detector.pth")[1]


def assert_same_tensors(found, expected, but=()):
    names = {name for name in expected if not name.startswith(("head.iou_logits", *but))}
    assert {name for name in found if not name.startswith(tuple(but))} == names
    for name in names:
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("norm", ["gn", "gn_bias", None])
def test_torchvisions_retinanet(tmp_path, nested, norm):
    model, _ = small(tower_norm=norm, extra_levels="p5_relu")
    tensors = as_torchvision(model.state_dict(), norm=norm is not None, nested=nested)
    source = source_of(with_background(tensors, 9), tmp_path)
    assert source.kind == "torchvision's RetinaNet" and source.head == "retinanet" and not source.unused
    assert_same_tensors(source.tensors, model.state_dict())
    assert source.settings == {
        "style": "pytorch", "backbone": "resnet18", "fpn_channels": 32, "num_convs": 2, "tower_norm": norm,
        "torchvision_anchors": True, "extra_levels": "p5_relu",
    }  # fmt: skip
    assert source.classes is None  # four columns: nothing says what they are


def test_torchvisions_fcos(tmp_path):
    """Its points are the corners of the cells; a box that both see in the inside is the same."""
    model, _ = small(detector="fcos", norm_on_bbox=True, centerness_on="reg", tower_norm="gn_bias")
    tensors = as_torchvision(model.state_dict(), norm=True, nested=False)
    tensors.pop("head.scales")
    source = source_of(with_background(tensors, 1), tmp_path)
    assert source.head == "fcos" and torch.equal(source.tensors["head.scales"], torch.ones(5))
    assert_same_tensors(source.tensors, model.state_dict(), ("head.scales", "head.bbox_regression.bias"))
    stride, point = 8.0, torch.tensor([40.0, 24.0])  # the corner of a cell
    theirs = tensors["head.regression_head.bbox_reg.bias"].abs() + 1
    moved = source.tensors["head.bbox_regression.bias"] - tensors["head.regression_head.bbox_reg.bias"] + theirs
    box = torch.cat([point - theirs[:2] * stride, point + theirs[2:] * stride])
    center = point + stride / 2
    assert torch.allclose(torch.cat([center - moved[:2] * stride, center + moved[2:] * stride]), box)


def test_faster_rcnns_rpn(tmp_path):
    model, config = small(detector="rpn", torchvision_anchors=True)
    for nested in (False, True):
        names = as_torchvision({k: v for k, v in model.state_dict().items() if not k.startswith("head.")})
        own = model.state_dict()
        for kind in ("weight", "bias"):
            names[f"rpn.head.conv{'.0.0' if nested else ''}.{kind}"] = own[f"head.cls_tower.0.{kind}"]
            names[f"rpn.head.cls_logits.{kind}"] = own[f"head.cls_logits.{kind}"]
            names[f"rpn.head.bbox_pred.{kind}"] = own[f"head.bbox_regression.{kind}"]
            names[f"roi_heads.box_predictor.cls_score.{kind}"] = torch.zeros(3)
        source = source_of(names, tmp_path)
        assert source.head == "rpn" and source.unused == {"roi_heads": 2}
        assert_same_tensors(source.tensors, own)


def test_columns_of_coco():
    assert len(COCO_CLASSES) == 80 and len(COCO_COLUMNS) == 90
    assert COCO_COLUMNS[0] == "person" and COCO_COLUMNS[17] == "dog" and COCO_COLUMNS[89] == "toothbrush"
    assert [i for i, name in enumerate(COCO_COLUMNS, 1) if name is None] == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]


def test_classes_of_torchvisions_91_columns(tmp_path):
    """The row of "dog" is that of label 18 for every anchor, whatever its place among the user's classes."""
    theirs, _ = small(90, extra_levels="c5_relu")
    tensors = with_background(as_torchvision(theirs.state_dict()), 9)
    torch.save(tensors, tmp_path / "detector.pth")
    model, config = small(3, seed=1, extra_levels="c5_relu")
    transfer, table = plan_from(tmp_path / "detector.pth", model, config, ["dog", "yak", "person"])
    layer = transfer.tensors["head.cls_logits.weight"].unflatten(0, (9, 3))
    original = tensors["head.classification_head.cls_logits.weight"].unflatten(0, (9, 91))
    assert torch.equal(layer[:, 0], original[:, 18]) and torch.equal(layer[:, 2], original[:, 1])
    assert torch.equal(layer[:, 1], model.head.cls_logits.weight.unflatten(0, (9, 3))[:, 1])
    assert "2 of 3 classes by name, of 80 in the file; new: yak" in table


@pytest.mark.parametrize("prefix", ["", "module."])
def test_mmdetections_retinanet(tmp_path, prefix):
    model, _ = small()
    tensors = {prefix + name: x for name, x in as_mmdetection(model.state_dict()).items()}
    meta = {"CLASSES": ("a", "b", "c"), "config": "model = dict(neck=dict(add_extra_convs='on_input'))"}
    source = source_of({"state_dict": tensors, "meta": meta}, tmp_path)
    assert source.kind == "MMDetection's RetinaNet" and not source.unused and source.classes == ("a", "b", "c")
    assert_same_tensors(source.tensors, model.state_dict())
    assert source.settings["extra_levels"] == "c5" and source.settings["tower_norm"] is None
    assert source.normalization is None and any("no pixel means and order" in note for _, note in source.notes)


@pytest.mark.parametrize("layer", ["conv", "fcos"])
def test_mmdetections_fcos(tmp_path, layer):
    model, _ = small(detector="fcos", style="caffe")
    tensors = as_mmdetection(model.state_dict(), norm=True, layer=layer)
    averages = {f"ema_{name.replace('.', '_')}": x for name, x in tensors.items()}
    meta = {"dataset_meta": {"classes": ["a", "b", "c"]}, "cfg": CONFIG}
    source = source_of({"state_dict": tensors | averages, "meta": meta}, tmp_path)
    assert_same_tensors(source.tensors, model.state_dict())
    assert source.unused == {"ema_*": len(tensors)} and any("averages" in note for _, note in source.notes)
    expected = {"style": "caffe", "extra_levels": "p5_relu", "norm_on_bbox": True, "centerness_on": "reg",
                "tower_norm": "gn", "num_convs": 2}  # fmt: skip
    assert expected.items() <= source.settings.items()
    assert source.normalization == model.backbone.normalization
    assert not any("pixel means" in note for _, note in source.notes)


def test_mmdetections_rpn(tmp_path):
    model, _ = small(detector="rpn")
    own = model.state_dict()
    for prefix in ("rpn_head", "bbox_head"):
        tensors = as_mmdetection({k: v for k, v in own.items() if not k.startswith("head.")})
        for kind in ("weight", "bias"):
            tensors[f"{prefix}.rpn_conv.{kind}"] = own[f"head.cls_tower.0.{kind}"]
            tensors[f"{prefix}.rpn_cls.{kind}"] = own[f"head.cls_logits.{kind}"]
            tensors[f"{prefix}.rpn_reg.{kind}"] = own[f"head.bbox_regression.{kind}"]
        source = source_of({"state_dict": tensors}, tmp_path)
        assert source.head == "rpn" and not source.unused
        assert_same_tensors(source.tensors, own)


HEADS = {
    "torchvision's RetinaNet": ("head.classification_head.cls_logits", "head.regression_head.bbox_reg"),
    "torchvision's FCOS": ("head.classification_head.cls_logits", "head.regression_head.bbox_reg"),
    "MMDetection's RetinaNet": ("bbox_head.retina_cls", "bbox_head.retina_reg"),
    "MMDetection's FCOS": ("bbox_head.conv_cls", "bbox_head.conv_reg"),
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("tensor", ["weight", "bias"])
@pytest.mark.parametrize("change", ["absent", "scalar", "short"])
def test_incomplete_heads(tmp_path, kind, layer, tensor, change):
    """The rest of the file is taken; the head starts anew."""
    settings = {"detector": "fcos", "tower_norm": "gn_bias"} if "FCOS" in kind else {"extra_levels": "p5_relu"}
    model, config = small(**settings)
    norm, anchors = "FCOS" in kind, model.head.num_anchors
    if kind.startswith("torchvision"):
        tensors = with_background(as_torchvision(model.state_dict(), norm=norm), anchors)
        tensors.pop("head.scales", None)
    else:
        tensors = as_mmdetection(model.state_dict(), norm=norm, layer="conv" if norm else "retina")
    name = f"{HEADS[kind][layer]}.{tensor}"
    broken = {"absent": None, "scalar": torch.tensor(1.0), "short": tensors[name][:2]}[change]
    tensors = {key: x for key, x in (tensors | {name: broken}).items() if x is not None}
    torch.save(tensors, tmp_path / "x.pth")
    transfer, _ = plan_from(tmp_path / "x.pth", model, config, ["a", "b", "c"])
    taken = {part.name: part.taken for part in transfer.parts if part.taken}
    assert taken.keys() == {"backbone", "pyramid", "extra levels"}


@pytest.mark.parametrize("own", ["c5", "p5_relu"])
def test_extra_levels_of_mmdetections_versions(tmp_path, own):
    """Early files of version 2 have ``add_extra_convs=True`` for both: the shape decides."""
    model, _ = small(extra_levels=own)
    tensors = as_mmdetection(model.state_dict())
    relu = own.endswith("relu")
    place = {"c5": "on_input", "p5_relu": "on_output"}[own]
    for written, expected in ((repr(place), own), ("True", own), ("['?']", own), ("'on_lateral'", None)):
        text = f"neck = dict(add_extra_convs={written}, relu_before_extra_convs={relu})"
        source = source_of({"state_dict": tensors, "meta": {"cfg": text}}, tmp_path)
        assert source.settings.get("extra_levels") == expected


def test_a_configuration_is_parsed_and_not_run():
    found = written_config({"config": CONFIG})
    assert found["style"] == "caffe" and found["mean"][0] == 102.9801 and "load_from" not in found
    for text in (None, 3, "model = dict(", "x" * 10, "(" * 5000, "\0"):
        assert written_config({"cfg": text}) == {}
    assert written_config({"cfg": "a = {'style': 'pytorch', 3: 4}"})["style"] == "pytorch"


@pytest.mark.parametrize("meta", [{}, {"CLASSES": None}, {"CLASSES": [1, 2]}, {"dataset_meta": 3}, {"CLASSES": ()}])
def test_no_class_names(meta):
    assert class_names(meta) is None
