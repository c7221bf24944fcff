"""What a model takes from another detector: whole parts that mean the same, and rows of classes by name."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from foreign import small

from mlc_ext.detectors.initialization.class_layer import class_layer
from mlc_ext.detectors.initialization.conversion import CONV, MEAN, for_input, same_input
from mlc_ext.detectors.initialization.own import head_of, structure
from mlc_ext.detectors.initialization.source import Source
from mlc_ext.detectors.initialization.table import transfer_table
from mlc_ext.detectors.initialization.transfer import plan
from mlc_ext.detectors.models.backbones.base import CAFFE_BGR, IMAGENET_RGB, Normalization

CLASSES = ["a", "b", "c"]


def own_source(classes=CLASSES, **settings) -> Source:
    model, config = small(len(classes), **settings)
    return Source("a detector", head_of(config), model.state_dict(), settings=structure(config), classes=tuple(classes))


def taken(source: Source, classes=CLASSES, **settings):
    """-> {part: (tensors taken, tensors of the model)}, the remarks, the transfer and the model."""
    model, config = small(len(classes), seed=1, **settings)
    transfer = plan(source, model, config, None if config.class_agnostic else classes)
    for name, tensor in transfer.tensors.items():
        assert tensor.shape == model.state_dict()[name].shape, name
    remarks = {part.name: part.remark for part in transfer.parts}
    return {part.name: (part.taken, part.total) for part in transfer.parts}, remarks, transfer, model


def new_parts(counts) -> set[str]:
    return {name for name, (count, _) in counts.items() if count == 0}


@pytest.mark.parametrize("detector", ["fcos", "fcos-", "retinanet", "rpn"])
def test_the_same_structure_takes_everything(detector):
    source = own_source(detector=detector)
    counts, remarks, transfer, model = taken(source, detector=detector)
    assert all(count == total for count, total in counts.values()) and not transfer.other_settings
    model.load_state_dict(transfer.tensors, strict=False)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.tensors[name]), name


def test_centerness_is_only_in_the_file():
    counts, _, transfer, _ = taken(own_source(detector="fcos"), detector="fcos-")
    assert not new_parts(counts) and transfer.unused == {"centerness layer": 2} and not transfer.other_settings


@pytest.mark.parametrize(
    ("theirs", "ours", "new", "remark"),
    [
        ({"detector": "fcos"}, {"detector": "fcos", "norm_on_bbox": True}, {"box layer"},
         ("box layer", "model.norm_on_bbox is false in the file")),
        ({"detector": "fcos"}, {"detector": "fcos", "centerness_on": "reg"}, {"centerness layer"},
         ("centerness layer", "model.centerness_on is cls in the file")),
        ({"num_convs": 3}, {}, {"class tower", "box tower", "class layer", "box layer", "IoU layer"},
         ("class tower", "the file has cls_tower.4.weight too")),
        ({}, {"num_convs": 3}, {"class tower", "box tower", "class layer", "box layer", "IoU layer"},
         ("box tower", "the file has no reg_tower.4.weight")),
        ({"tower_norm": "gn"}, {}, {"class tower", "box tower", "class layer", "box layer", "IoU layer"},
         ("box layer", "the box tower is new")),
        ({"tower_norm": "gn_bias"}, {}, {"class tower", "box tower", "class layer", "box layer", "IoU layer"},
         ("class tower", "the file's towers have group norm")),
        ({}, {"tower_norm": "gn"}, {"class tower", "box tower", "class layer", "box layer", "IoU layer"},
         ("class tower", "the file's towers have no norm")),
        ({"extra_levels": "p5"}, {}, {"extra levels"},
         ("extra levels", "extra_convs.0.weight is (32, 32, 3, 3), (32, 512, 3, 3) here")),
        ({"fpn_channels": 64}, {}, {"pyramid", "extra levels", "class tower", "box tower", "class layer", "box layer",
                                    "IoU layer"},
         ("pyramid", "lateral_convs.0.weight is (64, 128, 1, 1), (32, 128, 1, 1) here")),
        ({"detector": "fcos"}, {}, {"extra levels", "class tower", "box tower", "class layer", "box layer",
                                    "IoU layer"},
         ("class layer", "the file's head is of fcos")),
    ],
)  # fmt: skip
def test_parts_that_start_anew(theirs, ours, new, remark):
    """A layer that reads a new part is new too: its weights mean nothing there."""
    counts, remarks, _, _ = taken(own_source(**theirs), **ours)
    assert new_parts(counts) == new and all(counts[name][0] == counts[name][1] for name in counts.keys() - new)
    assert remarks[remark[0]] == remark[1]


def test_a_relu_between_the_extra_levels_is_a_note():
    counts, _, transfer, _ = taken(own_source(extra_levels="c5_relu"))
    assert not new_parts(counts) and transfer.other_settings == {"extra_levels": ("c5_relu", "c5")}


def test_biases_before_a_norm_are_left_out():
    source = own_source(detector="fcos", tower_norm="gn_bias")
    counts, remarks, transfer, model = taken(source, detector="fcos")
    assert not new_parts(counts) and remarks["class tower"] == "without 2 biases of the file's convolutions"
    table = transfer_table("x.pth", source, transfer)
    assert "the detections differ from the file's; its structure is --set model.tower_norm=gn_bias" in table


def test_pyramids_end_at_c5():
    """RPN's has a level more, at the fine end: FCOS's and RetinaNet's levels are its last three."""
    source = own_source(detector="rpn")
    counts, _, transfer, _ = taken(source)
    assert counts["pyramid"] == (12, 12)
    for i in range(3):
        expected = source.tensors[f"fpn.fpn_convs.{i + 1}.weight"]
        assert torch.equal(transfer.tensors[f"fpn.fpn_convs.{i}.weight"], expected)
    source = own_source()
    counts, remarks, transfer, _ = taken(source, detector="rpn")
    assert counts["pyramid"] == (12, 16) and remarks["pyramid"] == "the file has no P2"
    assert "fpn.lateral_convs.0.weight" not in transfer.tensors
    assert torch.equal(transfer.tensors["fpn.lateral_convs.1.weight"], source.tensors["fpn.lateral_convs.0.weight"])


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        ({"backbone": "resnet34"}, {}, "its backbone is resnet34, model.backbone is resnet18"),
        ({}, {"backbone": "resnet34"}, "its backbone is resnet18, model.backbone is resnet34"),
        ({"style": "caffe"}, {}, "its ResNet is in caffe style, model.style is pytorch.*--set model.style=caffe fits"),
    ],
)
def test_another_backbone_is_refused(theirs, ours, message):
    with pytest.raises(ValueError, match=message):
        taken(own_source(**theirs), **ours)


def test_an_unknown_backbone_is_refused():
    source = own_source()
    more = {"backbone.layer2.0.conv2_offset.weight": torch.zeros(3)}  # of deformable convolutions
    with pytest.raises(ValueError, match="the file has layer2.0.conv2_offset.weight too"):
        taken(dataclasses.replace(source, tensors=source.tensors | more))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types(dtype):
    source = own_source()
    tensors = {name: x.to(dtype) if x.is_floating_point() else x for name, x in source.tensors.items()}
    counts, _, transfer, model = taken(dataclasses.replace(source, tensors=tensors))
    assert not new_parts(counts)
    model.load_state_dict(transfer.tensors, strict=False)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[name].to(tensor.dtype)), name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.full((32,), float("nan")), "fpn.fpn_convs.1.bias has values that are NaN or infinite"),
        (torch.full((32,), 1e300, dtype=torch.float64), "fpn.fpn_convs.1.bias has values that are NaN or infinite"),
        (torch.ones(32, dtype=torch.int8), "fpn.fpn_convs.1.bias is torch.int8, not floating point"),
    ],
)
def test_unusable_values_are_refused(values, message):
    """Only where they would be taken: another number of classes starts the class layer anew."""
    source = own_source()
    broken = dataclasses.replace(source, tensors=source.tensors | {"fpn.fpn_convs.1.bias": values})
    with pytest.raises(ValueError, match=message):
        taken(broken)
    unused = torch.full_like(source.tensors["head.cls_logits.bias"], float("nan"))
    counts, _, _, _ = taken(
        dataclasses.replace(source, tensors=source.tensors | {"head.cls_logits.bias": unused}), ["x", "y", "z"]
    )
    assert new_parts(counts) == {"class layer"}


def layers(columns: int, num_anchors: int = 2, offset: float = 0.0):
    values = torch.arange(num_anchors * columns, dtype=torch.float32) + offset
    return {"x.weight": values[:, None, None, None].expand(-1, 4, 3, 3).clone(), "x.bias": values.clone()}


@pytest.mark.parametrize(
    ("theirs", "ours", "rows", "remark"),
    [
        (["a", "b"], ["b", "a"], [1, 0, 3, 2], "2 of 2 classes by name, of 2 in the file"),
        (["Traffic_light", None, "dog"], ["DOG", "traffic-light"], [2, 0, 5, 3],
         "2 of 2 classes by name, of 2 in the file"),
        (["dog", "dog"], ["dog"], [0, 2], "1 of 1 classes by name, of 2 in the file"),
        (["a"], ["z", "a"], [100, 0, 102, 1], "1 of 2 classes by name, of 1 in the file; new: z"),
        (None, ["a", "b"], [0, 1, 2, 3], "all 2 rows in their order: the file does not name its classes"),
        (None, ["a"], None, "2 classes without names in the file, 1 here"),
        (["a", "b"], ["c", "d"], None, "none of the 2 classes is among the 2 of the file"),
    ],
)  # fmt: skip
def test_rows_of_classes(theirs, ours, rows, remark):
    """Two anchors; the file's rows are numbered, those of the model from 100."""
    columns = len(theirs) if theirs else 2
    found = class_layer(layers(len(ours), offset=100.0), layers(columns), theirs, ours, 2)
    assert found.remark == remark and bool(found.tensors) == (rows is not None)
    if rows is not None:
        assert found.tensors["x.bias"].tolist() == rows
        assert found.tensors["x.weight"][:, 2, 1, 1].tolist() == rows


def test_another_number_of_anchors():
    found = class_layer(layers(4, 3), layers(2, 2), ["a", "b"], list("abcd"), 3)
    assert not found.tensors and found.remark == "weight is (4, 4, 3, 3), (12, 4, 3, 3) here"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (CAFFE_BGR, IMAGENET_RGB),
        (IMAGENET_RGB, CAFFE_BGR),
        (Normalization((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "bgr", 255.0), CAFFE_BGR),
        (Normalization((0.0, 0.0, 0.0), (255.0, 250.0, 240.0), "rgb", 255.0), IMAGENET_RGB),
    ],
)
def test_other_pixel_values(given, wanted):
    """The converted first layers give what the original ones give, up to the padded border."""
    model, _ = small()
    tensors = {CONV: model.backbone.conv1.weight.detach(), MEAN: model.backbone.bn1.running_mean}
    image = torch.rand(1, 3, 32, 40)
    assert not same_input(given, wanted) and same_input(given, given)
    with torch.no_grad():
        expected = model.backbone.bn1(model.backbone.conv1(given(image)))
        converted = for_input(tensors, given, wanted)
        model.backbone.conv1.weight.copy_(converted[CONV])
        model.backbone.bn1.running_mean.copy_(converted[MEAN])
        found = model.backbone.bn1(model.backbone.conv1(wanted(image)))
    scale = expected.abs().max()
    torch.testing.assert_close(found[..., 2:-2, 2:-2] / scale, expected[..., 2:-2, 2:-2] / scale, atol=1e-5, rtol=0)


def test_the_same_input_in_other_units():
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    assert same_input(Normalization(mean, std, "rgb", 255.0), IMAGENET_RGB)
