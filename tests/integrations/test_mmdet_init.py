"""A detector that starts from MMDetection's file gives MMDetection's detections."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from initialized import assert_same_detections, images, random_statistics, started
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging import HistoryBuffer

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
BORDER = ("fcos_tricks", "retinanet_caffe")
"""Detectors whose means are not this project's: the first convolution is exact but for the image's border."""

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
    ours, transfer, table = started(tmp_path / "detector.pth", CLASSES, **CASES[name][1])
    assert all(part.taken == part.total for part in transfer.parts) and not transfer.other_settings, table
    if name != "rpn":
        ours.postprocessor = dataclasses.replace(ours.postprocessor, score_threshold=0.3, pre_nms_top_k=None)
    pictures = [(x * 255).round().to(torch.uint8) for x in images()]
    with torch.no_grad():
        found = [ours([picture])[0] for picture in pictures]
    if name in BORDER:
        assert "but for the image's border" in table
        pytest.skip("compared in test_values_inside")
    assert_same_detections(found, detections(theirs, pictures))
