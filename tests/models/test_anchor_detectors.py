"""RetinaNet and RPN: MMDetection's recorded losses and detections, the variants, awkward batches, RPN's sampling."""

import itertools

import pytest
import torch
from golden import load_golden
from torch import nn

from mlc_ext import MLCConfig, sample_at_most, sample_balanced
from mlc_ext.detectors.models.backbones.base import IMAGENET_RGB
from mlc_ext.detectors.models.heads import flatten_level
from mlc_ext.detectors.models.postprocess import Postprocessor
from mlc_ext.detectors.models.retinanet import RetinaNet
from mlc_ext.detectors.models.rpn import RPN

OFF = MLCConfig(ml=False, iur=False)


class TinyBackbone(nn.Module):
    """A stand-in with a backbone's attributes: a convolution a level."""

    normalization = IMAGENET_RGB

    def __init__(self, strides):
        super().__init__()
        self.strides, self.out_channels = list(strides), [8] * len(strides)
        self.layers = nn.ModuleList(nn.Conv2d(3, 8, stride, stride) for stride in strides)

    def forward(self, x):
        return [layer(x) for layer in self.layers]


def build(kind: str, mlc: MLCConfig, num_classes: int = 3):
    torch.manual_seed(0)
    if kind == "rpn":
        return RPN(backbone=TinyBackbone((4, 8, 16, 32)), mlc=mlc, fpn_channels=16)
    return RetinaNet(num_classes, backbone=TinyBackbone((8, 16, 32)), mlc=mlc, fpn_channels=16, num_convs=1)


def batch():
    images = [torch.rand(3, 64, 96), torch.rand(3, 80, 64)]
    boxes = [torch.tensor([[4.0, 4.0, 40.0, 40.0], [30.0, 10.0, 90.0, 60.0]]), torch.tensor([[10.0, 10.0, 50.0, 70.0]])]
    targets = [{"boxes": b, "labels": torch.arange(1, len(b) + 1)} for b in boxes]
    return images, targets


def recorded_outputs(case):
    levels = sum(key.startswith("cls_") for key in case)
    anchors = [case[f"anchors_{level}"] for level in range(levels)]
    num_anchors = case["reg_0"].shape[1] // 4
    outputs = {
        key: torch.cat([flatten_level(case[f"{name}_{level}"], num_anchors) for level in range(levels)], 1)
        for key, name in (("cls_logits", "cls"), ("bbox_regression", "reg"))
    }
    sizes = [tuple(case[f"cls_{level}"].shape[-2:]) for level in range(levels)]
    targets = [
        {"boxes": case[f"gt_boxes_{i}"].float(), "labels": case[f"gt_labels_{i}"] + 1, "crowd": torch.zeros(0, 4)}
        for i in range(2)
    ]
    return outputs, anchors, sizes, targets


def same_detections(model, case, outputs, sizes):
    image_size = tuple(case["image_size"].tolist())
    for i, found in enumerate(model.detections(outputs, sizes, [image_size] * 2)):
        torch.testing.assert_close(found["boxes"], case[f"det_boxes_{i}"], rtol=0, atol=1e-4)
        torch.testing.assert_close(found["scores"], case[f"det_scores_{i}"], rtol=0, atol=1e-6)
        assert torch.equal(found["labels"] - 1, case.get(f"det_labels_{i}", torch.zeros(len(found["labels"]))).long())


def test_golden_retinanet():
    for case in load_golden("retinanet"):
        outputs, anchors, sizes, targets = recorded_outputs(case)
        model = build("retinanet", OFF, int(case["num_classes"]))
        model.postprocessor = Postprocessor(pre_nms_top_k=None)
        for own, theirs in zip(model.priors(sizes, anchors[0]), anchors, strict=True):
            assert torch.equal(own, theirs)
        losses = model.losses(outputs, sizes, targets)
        torch.testing.assert_close(losses["classification"], case["loss_cls"].float(), rtol=1e-5, atol=0)
        torch.testing.assert_close(losses["bbox_regression"], case["loss_box"].float(), rtol=1e-5, atol=0)
        same_detections(model, case, outputs, sizes)


def test_golden_rpn():
    for case in load_golden("rpn"):
        outputs, anchors, sizes, targets = recorded_outputs(case)
        model = build("rpn", OFF)
        for own, theirs in zip(model.priors(sizes, anchors[0]), anchors, strict=True):
            assert torch.equal(own, theirs)
        assert all(loss.isfinite() for loss in model.losses(outputs, sizes, targets).values())
        same_detections(model, case, outputs, sizes)


@pytest.mark.parametrize("kind", ["retinanet", "rpn"])
@pytest.mark.parametrize("ml", [False, True])
@pytest.mark.parametrize("iur", [False, True])
def test_variants_train_every_parameter(kind, ml, iur):
    model = build(kind, MLCConfig(ml=ml, iur=iur, alpha=0.5, start_epoch=1, alignment=0.1))
    images, targets = batch()
    assert not model.mutual
    for epoch in (0, 1):
        model.set_epoch(epoch)
        assert model.mutual == (ml and epoch == 1)
        losses = model(images, targets)
        expected = {"classification", "bbox_regression", "prediction_alignment"} | ({"iou_rescoring"} if iur else set())
        assert losses.keys() == expected
        model.zero_grad()
        sum(losses.values()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    model.eval()
    for found, image in zip(model(images), images, strict=True):
        limit = torch.tensor([image.shape[2], image.shape[1]] * 2)
        assert (found["boxes"] >= 0).all() and (found["boxes"] <= limit).all()
        assert (found["scores"].diff() <= 0).all()


@pytest.mark.parametrize("kind", ["retinanet", "rpn"])
@pytest.mark.parametrize("case", ["empty", "half empty", "crowd", "one pixel", "500 boxes"])
def test_awkward_targets(kind, case):
    model = build(kind, MLCConfig(alpha=2.0, start_epoch=0))
    images, targets = batch()
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    if case == "empty":
        targets = [none, none]
    elif case == "half empty":
        targets[0] = none
    elif case == "crowd":
        targets = [{**t, "iscrowd": torch.ones(len(t["boxes"]), dtype=torch.bool)} for t in targets]
    elif case == "one pixel":
        targets[0] = {"boxes": torch.tensor([[8.0, 8.0, 9.0, 9.0]]), "labels": torch.tensor([1])}
    else:
        corner = torch.rand(500, 2) * 40
        boxes = torch.cat((corner, corner + 1 + torch.rand(500, 2) * 20), 1)
        targets[0] = {"boxes": boxes, "labels": torch.ones(500, dtype=torch.int64)}
    losses = model(images, targets)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_sample_at_most():
    torch.manual_seed(0)
    mask = torch.rand(3, 50) < torch.tensor([[0.0], [0.1], [0.9]])
    drawn = sample_at_most(mask, 10, 10)
    assert not (drawn & ~mask).any()
    assert drawn.sum(1).tolist() == mask.sum(1).clamp(max=10).tolist()
    limits = torch.tensor([4, 1, 7])
    assert (sample_at_most(mask, limits, 10).sum(1) == mask.sum(1).minimum(limits)).all()
    assert not sample_at_most(mask, 0, 0).any()


def test_sampling_is_uniform():
    torch.manual_seed(0)
    counts = sum(sample_at_most(torch.ones(1, 10, dtype=torch.bool), 3, 3)[0].float() for _ in range(4000))
    assert (counts - 1200).abs().max() < 5 * (4000 * 0.3 * 0.7) ** 0.5  # five standard deviations


def test_weights_of_one_are_drawn_first():
    torch.manual_seed(0)
    mask = torch.ones(2, 60, dtype=torch.bool)
    mask[:, 50:] = False
    weights = torch.full((2, 60), 0.5)
    weights[0, :8], weights[1, :30] = 1.0, 1.0
    weights[:, 40:] = 0.0
    seen = torch.zeros(2, 60)
    for _ in range(200):
        drawn = sample_at_most(mask, 20, 20, weights)
        assert drawn.sum(1).tolist() == [20, 20] and drawn[0, :8].all() and not drawn[1, 30:].any()
        seen += drawn
    assert (seen[0, 8:40] > 0).all() and (seen[1, :30] > 0).all() and (seen[:, 40:] == 0).all()


def test_the_rest_is_drawn_in_proportion_to_its_weight():
    """Against all orders of three draws without replacement."""
    torch.manual_seed(0)
    weights = torch.tensor([0.4, 0.2, 0.1, 0.05, 0.9])
    expected = torch.zeros(5, dtype=torch.float64)
    for order in itertools.permutations(range(5), 3):
        chance, left = 1.0, float(weights.sum())
        for k in order:
            chance, left = chance * float(weights[k]) / left, left - float(weights[k])
        expected[list(order)] += chance
    draws = 20000
    drawn = sample_at_most(torch.ones(draws, 5, dtype=torch.bool), 3, 3, weights.expand(draws, 5)).double().mean(0)
    assert (drawn - expected).abs().max() < 5 * (0.25 / draws) ** 0.5


@pytest.mark.parametrize("mutual", [False, True])
def test_rpn_samples_all_losses_from_the_same_priors(mutual):
    """More candidates than places: the originals come first, and the IoU layer learns from the drawn ones alone."""
    torch.manual_seed(0)
    model = build("rpn", MLCConfig(alpha=2.0, start_epoch=0 if mutual else 9))
    model.sample_size, model.max_positive = 16, 8
    images, targets = batch()
    outputs, sizes, _ = model.head_outputs(images)
    prepared = [{**t, "crowd": torch.zeros(0, 4)} for t in targets]
    task = model.label(outputs, sizes, prepared).task
    found = model.sampled(task, 2)
    of_image = found.iou_positive.view(2, -1).sum(1)
    cls_drawn = ((found.cls_weights > 0) & (found.cls_labels > 0)).view(2, -1)
    loc_drawn = (found.loc_weights > 0).view(2, -1)
    assert (cls_drawn.sum(1) <= 8).all() and (loc_drawn.sum(1) <= 8).all() and (of_image <= 16).all()
    assert torch.equal(found.iou_positive.view(2, -1), cls_drawn | loc_drawn)
    for drawn, weights in ((cls_drawn, task.cls_weights), (loc_drawn, task.loc_weights)):
        possible = (task.cls_labels > 0) if weights is task.cls_weights else task.loc_positive
        originals = (possible & (weights == 1)).view(2, -1)
        assert ((drawn & originals).sum(1) == originals.sum(1).clamp(max=8)).all()
    assert found.sampled_normalizer == 32  # both images have negatives to fill up with
    losses = model.losses(outputs, sizes, prepared)
    assert losses["iou_rescoring"].isfinite()


def test_rpn_keeps_its_own_candidates():
    """FCOS's default must not reach the anchors."""
    for kind in ("rpn", "retinanet"):
        assert build(kind, MLCConfig()).assigner.candidates == "all"
        assert build(kind, MLCConfig(candidates="positives")).assigner.candidates == "positives"
        with pytest.raises(ValueError, match="got 'own_levels'"):
            build(kind, MLCConfig(candidates="own_levels"))


def test_negatives_fill_what_positives_leave():
    torch.manual_seed(0)
    positive = torch.zeros(2, 400, dtype=torch.bool)
    positive[0, :5], positive[1, :300] = True, True
    drawn_positive, drawn_negative = sample_balanced(positive, ~positive, 256, 128)
    assert drawn_positive.sum(1).tolist() == [5, 128]
    assert drawn_negative.sum(1).tolist() == [251, 100]  # all there are
    assert not (drawn_positive & ~positive).any() and not (drawn_negative & positive).any()


def test_rpn_normalizer_counts_one_at_least_of_each():
    """An image without an object has 256 negatives; MMDetection divides by 257."""
    model = build("rpn", OFF)
    images = [torch.rand(3, 64, 64)]
    model.train()
    outputs, sizes, _ = model.head_outputs(images)
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "crowd": torch.zeros(0, 4)}
    constant = outputs | {"cls_logits": torch.zeros_like(outputs["cls_logits"])}
    loss = model.losses(constant, sizes, [target])["classification"]
    torch.testing.assert_close(loss, torch.tensor(2.0).log() * 256 / 257)


def test_rpn_refuses_more_positives_than_samples():
    with pytest.raises(ValueError, match="max_positive must be in 1..64"):
        RPN(backbone=TinyBackbone((4, 8, 16, 32)), sample_size=64, max_positive=65, fpn_channels=16)
