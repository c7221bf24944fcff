"""A detector that starts from MMDetection's file gives MMDetection's detections."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
import yaml
from initialized import assert_same_detections, images, in_documentation, random_statistics, started
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging import HistoryBuffer

from mlc_ext.detectors.initialization.files import foreign_names, read_weights
from mlc_ext.detectors.initialization.mmdetection import class_names
from mlc_ext.detectors.models.backbones.base import Normalization

DOCUMENTATION = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()
CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
CLASSES = ["cat", "dog", "zebra"]
TRICKS = {"norm_on_bbox": True, "centerness_on": "reg", "tower_norm": "gn_bias", "nms_threshold": 0.6}
CASES = {
    "fcos": ("fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", {"detector": "fcos", "style": "caffe"}),
    "fcos_tricks": (
        "fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py",
        {"detector": "fcos", "style": "caffe", **TRICKS},
    ),
    "retinanet": ("retinanet/retinanet_r50_fpn_1x_coco.py", {"detector": "retinanet"}),
    "retinanet_caffe": ("retinanet/retinanet_r50-caffe_fpn_1x_coco.py", {"detector": "retinanet", "style": "caffe"}),
    "retinanet_r18": ("retinanet/retinanet_r18_fpn_1x_coco.py", {"detector": "retinanet", "backbone": "resnet18"}),
    "rpn": ("rpn/rpn_r50_fpn_1x_coco.py", {"detector": "rpn"}),
}
MEANS = Normalization((103.530, 116.280, 123.675), (1.0, 1.0, 1.0), "bgr", scale=255.0)
OTHER_MEANS = ("fcos_tricks", "retinanet_caffe")
"""Detectors with MEANS, which are not this project's: see test_other_means."""

pytestmark = pytest.mark.skipif(not CONFIGS.is_dir(), reason="MMDetection's configs are not installed")


def untrained(name: str):
    """-> the detector of a config with three classes and random statistics; its checkpoint's content."""
    register_all_modules(init_default_scope=True)
    config = Config.fromfile(CONFIGS / CASES[name][0])
    config.model.backbone.init_cfg = None
    if "bbox_head" in config.model:
        config.model.bbox_head.num_classes = len(CLASSES)
        config.model.test_cfg.score_thr = 0.3
        config.model.test_cfg.nms_pre = 10**6  # MMDetection ranks by the class score there, this project by the product
    model = MODELS.build(config.model).eval()
    random_statistics(model)
    if max(config.model.data_preprocessor.std) == 1:  # Caffe's pixel values are large
        model.backbone.norm1.running_var.mul_(60**2)
    head = model.bbox_head if "bbox_head" in config.model else None
    if name.startswith("fcos"):
        with torch.no_grad():
            head.conv_reg.bias += 3  # boxes of some cells
    content = {
        "meta": {"cfg": config.pretty_text, "dataset_meta": {"CLASSES": tuple(CLASSES)}, "seed": np.int64(3)},
        "state_dict": model.state_dict(),
        "message_hub": {"log_scalars": {"train/loss": HistoryBuffer([1.0, 2.0], [1, 1])}},
    }
    return model, content


def detections(model, pictures: list[torch.Tensor]) -> list[dict]:
    """MMDetection's, of RGB images in 0..255 that are not resized; labels count from 1."""
    found = []
    for picture in pictures:
        size = tuple(picture.shape[1:])
        sample = DetDataSample(metainfo={"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)})
        with torch.no_grad():
            result = model.test_step({"inputs": [picture.flip(0)], "data_samples": [sample]})[0].pred_instances
        found.append({"boxes": result.bboxes, "scores": result.scores, "labels": result.labels + 1})
    return found


@pytest.mark.parametrize("name", CASES)
def test_same_detections(name, tmp_path):
    theirs, content = untrained(name)
    torch.save(content, tmp_path / "detector.pth")
    means = MEANS if name in OTHER_MEANS else None
    ours, transfer, table = started(tmp_path / "detector.pth", CLASSES, means, **CASES[name][1])
    assert "converted" not in table
    assert all(part.taken == part.total for part in transfer.parts) and not transfer.other_settings, table
    if name != "rpn":
        ours.postprocessor = dataclasses.replace(ours.postprocessor, score_threshold=0.3, pre_nms_top_k=None)
    pictures = [(x * 255).round().to(torch.uint8) for x in images()]
    with torch.no_grad():
        found = [ours([picture])[0] for picture in pictures]
    assert_same_detections(found, detections(theirs, pictures))


def test_other_means(tmp_path):
    """The first convolution is converted to this project's means: exact but where it is padded with zeros."""
    theirs, content = untrained("retinanet_caffe")
    torch.save(content, tmp_path / "detector.pth")
    ours, transfer, table = started(tmp_path / "detector.pth", CLASSES, **CASES["retinanet_caffe"][1])
    assert "converted, exact but for the image's border" in table and not transfer.other_settings
    picture = (images()[0] * 255).round().to(torch.uint8)
    batch = theirs.data_preprocessor({"inputs": [picture.flip(0)], "data_samples": None})["inputs"]
    with torch.no_grad():
        expected = theirs.backbone.norm1(theirs.backbone.conv1(batch))
        found = ours.backbone.bn1(ours.backbone.conv1(ours.backbone.normalization(picture)[None]))
    torch.testing.assert_close(found[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], atol=1e-3, rtol=1e-4)
    assert not torch.allclose(found, expected, atol=1e-3)


def test_faster_rcnn_starts_an_rpn(tmp_path):
    """Its RPN has names of its own, and its heads are reported."""
    register_all_modules(init_default_scope=True)
    config = Config.fromfile(CONFIGS / "_base_" / "models" / "faster-rcnn_r50_fpn.py")
    config.model.backbone.init_cfg = None
    theirs = MODELS.build(config.model)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "detector.pth")
    _, transfer, table = started(tmp_path / "detector.pth", CLASSES, detector="rpn")
    assert all(part.taken == part.total for part in transfer.parts) and "only in the file: roi_head (8)" in table
    assert "no configuration" in table and "as Caffe's weights" in table


@pytest.mark.parametrize("new_format", [True, False])
def test_a_checkpoint_with_objects_of_its_own(new_format, tmp_path):
    """mmengine's buffers need NumPy, getattr and itself to be read; nothing of that is called."""
    _, content = untrained("retinanet_r18")
    path = tmp_path / "detector.pth"
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    names = foreign_names(path)
    assert "mmengine.logging.history_buffer.HistoryBuffer" in names and "builtins.getattr" in names
    file = read_weights(path)
    assert file.tensors.keys() == content["state_dict"].keys() and class_names(file.meta) == tuple(CLASSES)


def test_the_documentation_names_the_published_files():
    """By MMDetection's own index of its files."""
    published = {}
    for path in CONFIGS.glob("*/metafile.yml"):
        content = yaml.safe_load(path.read_text())
        for model in content["Models"] if isinstance(content, dict) else content:
            published[model["Name"]] = str(model.get("Weights")).rpartition("/")[2]
    rows = re.findall(r"^\| `(\S+\.pth)` \| MMDetection `(\S+)` \|$", DOCUMENTATION, re.MULTILINE)
    assert len(rows) > 5 and [published.get(name) for _, name in rows] == [file for file, _ in rows]


@pytest.mark.parametrize(("name", "row"), [("fcos", "FCOS"), ("fcos_tricks", "FCOS with its later tricks")])
def test_the_documentation_has_the_settings(name, row):
    assert f"| MMDetection {row} | `{in_documentation(CASES[name][1])}` |" in DOCUMENTATION
