"""Every preset: its settings, that it builds, and that it trains and is evaluated end to end on tiny images."""

import dataclasses

import pytest
import torch
from small_runs import config_of
from whole_models import BATCHES, IMAGES, Pooling

from mlc_ext.detectors.config.overrides import differences, override
from mlc_ext.detectors.config.presets import PRESETS, preset
from mlc_ext.detectors.config.settings import ASSIGNERS
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.models.build import build_model
from mlc_ext.detectors.models.fcos import FCOS
from mlc_ext.detectors.models.fpn import FPN
from mlc_ext.detectors.models.retinanet import RetinaNet
from mlc_ext.detectors.models.rpn import RPN


def tiny(name, out):
    return config_of(name, out, 1, model__norm=None, data__generated_images=4, schedule__batch_size=2)


WITH_ASSIGNER = [name for name in PRESETS if preset(name).model.assigner is not None]
WHOLE = [f"fcos_minus_r50_{assigner}_mlc" for assigner in ASSIGNERS] + ["fcos_r50_atss_mlc", "retinanet_r50_paa_mlc"]
"""Of the presets with an assigner, those that the fast tests train as a run; test_trains_two_steps has them all."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in WITH_ASSIGNER and n not in WHOLE else []) for n in PRESETS],
)
def test_trains_and_evaluates(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(tiny(name, tmp_path / "run"), progress=False)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    metrics = trainer.run()
    assert trainer.iteration == trainer.total_iterations == 2
    assert trainer.model.mutual == trainer.config.mlc.ml  # on in the second half
    moved = sum((a != b).any() for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert moved > len(before) / 2
    if "rpn" in name:
        assert {"AR@100", "AR@300", "AR@1000"} <= metrics.keys() and metrics["AR@1000"] > 0
    else:
        assert {"AP", "AP50", "AP75"} <= metrics.keys()
    assert "correlation" in metrics and "correlation_pooled" in metrics


def test_presets_of_assigners():
    suffixes = ("", "_iur", "_mlc")
    detectors = ("fcos", "fcos_minus", "retinanet")
    names = {f"{detector}_r50_{a}{suffix}" for detector in detectors for a in ASSIGNERS for suffix in suffixes}
    assert set(WITH_ASSIGNER) == names and set(WHOLE) < names
    for name in names:  # the preset without, and the assigner
        found = preset(name)
        own = preset(name.replace(f"_{found.model.assigner}", ""))
        assert differences(own, found).keys() == {"model.assigner", "run.out"}, name


@pytest.mark.parametrize("name", WITH_ASSIGNER)
def test_trains_two_steps(name, tmp_path):
    """The baseline's step, then one with the preset's method."""
    config = tiny(name, tmp_path)
    torch.manual_seed(0)
    model = build_model(config, 3)
    model.backbone = Pooling((8, 16, 32))
    model.fpn = FPN([3] * 3, config.model.fpn_channels, extra="on_p5", num_extra=2)
    for epoch in (0, 0.5):
        model.set_epoch(epoch)
        assert model.mutual == (config.mlc.ml and epoch > 0)
        losses = model(IMAGES, BATCHES[0])
        assert all(loss.isfinite() and loss >= 0 for loss in losses.values()) and losses["classification"] > 0
        assert losses["bbox_regression"] > 0
        model.zero_grad()
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("suffix", "ml", "iur"), [("", 0, 0), ("_ml", 1, 0), ("_iur", 0, 1), ("_mlc", 1, 1)])
@pytest.mark.parametrize(
    ("detector", "alpha", "lr", "epochs"),
    [("fcos_minus", 0, 0.01, 24), ("retinanet", 0.5, 0.01, 24), ("rpn", 2, 0.02, 19)],
)
def test_the_papers_settings(detector, alpha, lr, epochs, suffix, ml, iur):
    config = preset(f"{detector}_r50{suffix}")
    assert (config.mlc.ml, config.mlc.iur, config.mlc.alpha) == (ml, iur, alpha)
    assert (config.schedule.lr, config.schedule.epochs, config.schedule.batch_size) == (lr, epochs, 16)
    assert config.mlc.start_epoch == 12 and (config.data.short_side, config.data.long_side) == (800, 1333)
    assert config.run.out == f"runs/{detector}_r50{suffix}"


def built(name: str, **settings):
    config = preset(name)
    for key, value in {"model.backbone": "resnet18", "model.fpn_channels": 64, **settings}.items():
        config = override(config, key, value)
    return build_model(config, 5)


def test_settings_reach_the_model():
    tricks = built("fcos_tricks_r50")
    assert isinstance(tricks, FCOS) and tricks.centerness and tricks.box_loss == "giou"
    assert tricks.postprocessor.iou_threshold == 0.6 and tricks.assigner.center_sampling_radius == 1.5
    minus = built("fcos_minus_r50")
    assert not (minus.centerness or minus.centerness_weights or minus.mmdet1) and minus.assigner.extent == 0
    weighted = built("fcos_minus_r50", **{"model.centerness_weights": True})
    assert weighted.centerness_weights and not weighted.centerness
    assert built("fcos_minus_r50_mlc_mmdet1").mmdet1 and built("fcos_r50_mmdet1").assigner.extent == 1
    old, new = built("retinanet_r50_mmdet1"), built("retinanet_r50")
    assert isinstance(old, RetinaNet) and (old.smooth_l1_beta, new.smooth_l1_beta) == (0.11, 0.0)
    assert old.coder.extent == 1 and new.coder.extent == 0
    rpn = built("rpn_r50_mmdet1")
    assert isinstance(rpn, RPN) and rpn.smooth_l1_beta == 1 / 9 and rpn.postprocessor.iou_threshold == 0.7
    assert built("rpn_r50", **{"model.nms_threshold": 0.8}).postprocessor.iou_threshold == 0.8
    assert built("fcos_minus_r50_iur", **{"model.nms": "iou"}).postprocessor.nms == "iou"


@pytest.mark.parametrize(
    ("name", "setting", "value", "text"),
    [
        ("fcos_minus_r50", "model.detector", "yolo", "model.detector must be one of 'fcos', .*got 'yolo'"),
        ("retinanet_r50", "model.centerness_weights", False, "model.centerness_weights is no setting of 'retinanet'"),
        ("fcos_minus_r50", "model.centerness_on", "reg", "model.centerness_on is no setting of 'fcos-'"),
        ("retinanet_r50", "model.norm_on_bbox", True, "model.norm_on_bbox is no setting of 'retinanet'"),
        ("rpn_r50", "model.num_convs", 2, "model.num_convs is no setting of 'rpn'"),
        ("rpn_r50", "model.tower_norm", "gn", "model.tower_norm is no setting of 'rpn'"),
        ("fcos_r50", "model.torchvision_anchors", True, "model.torchvision_anchors is no setting of 'fcos'"),
        ("fcos_minus_r50", "model.nms", "iou", "needs mlc.iur"),
        ("fcos_minus_r50_iur", "model.nms", "soft", "model.nms must be one of 'rescored', 'iou', got 'soft'"),
    ],
)
def test_refuses(name, setting, value, text):
    with pytest.raises(ValueError, match=text):
        built(name, **{setting: value})


def test_iou_nms_at_test():
    """The same weights and images: the kept boxes' scores are class scores, not products."""
    model = built("fcos_minus_r50_iur").eval()
    model.set_epoch(24)  # the IoU layer ranks from the switch on
    torch.manual_seed(0)
    with torch.no_grad():
        model.head.cls_logits.bias.fill_(0.0)
    images = [torch.rand(3, 96, 160)]  # P7 of one cell has nothing to normalize
    rescored = model(images)[0]["scores"]
    model.postprocessor = dataclasses.replace(model.postprocessor, nms="iou")
    found = model(images)[0]["scores"]
    _, predictions = model.detect(images, with_predictions=True)
    assert torch.isin(found, predictions[0]["raw_scores"]).all()
    assert torch.isin(rescored, predictions[0]["scores"]).all()
    assert found[0] > rescored[0]
