"""The library's assigners in the detectors: what they assign there, and the classification losses of quality."""

import pytest
import torch
from assigner_cases import STRIDES, check_invariants
from torch import nn
from whole_models import BATCHES, IMAGES, build

from mlc_ext import (
    Assignment,
    ATSSAssigner,
    MALAssigner,
    MLCConfig,
    PAAAssigner,
    Predictions,
    SimOTAAssigner,
    TaskAlignedAssigner,
    quality_focal_loss,
    varifocal_loss,
)
from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.presets import preset
from mlc_ext.detectors.config.settings import ASSIGNERS, CLS_LOSSES
from mlc_ext.detectors.models.assigners import build_assigner, keep_inside
from mlc_ext.detectors.models.build import build_model
from mlc_ext.detectors.models.targets import prepare_targets

MLC = MLCConfig(start_epoch=0)
DETECTORS = ("fcos-", "retinanet")
WITH_ALL = ("atss", "paa", "mal")


def assigner_of(name, detector, mlc=MLC, epochs=10):
    return build_assigner(name, STRIDES, mlc, epochs=epochs, points=detector != "retinanet")


def model_of(name, detector, mlc=MLC, **options):
    model = build(detector, mlc=mlc, assigner=assigner_of(name, detector, mlc), **options)
    nn.init.normal_(model.head.cls_logits.weight, std=0.3)  # an untrained head fits nothing in particular
    return model


def labeled(model, images=IMAGES, targets=BATCHES[0], **options):
    """-> priors of each level, targets, predictions, what is labeled."""
    prepared = prepare_targets(targets, len(images), torch.device("cpu"), 3)
    with torch.no_grad():
        outputs, sizes, _ = model.head_outputs(images)
        levels = model.priors(sizes, outputs["bbox_regression"])
        predictions = Predictions(outputs["cls_logits"], model.decode(outputs, torch.cat(levels)))
        return levels, prepared, predictions, model.label(outputs, sizes, prepared, **options)


def library_assigner(name, candidates):
    return {
        "atss": lambda: ATSSAssigner(candidates=candidates),
        "task_aligned": lambda: TaskAlignedAssigner(first_label=1),
        "sim_ota": lambda: SimOTAAssigner(first_label=1),
        "paa": lambda: PAAAssigner(first_label=1, candidates=candidates),
        "mal": lambda: MALAssigner(first_label=1, candidates=candidates),
    }[name]()


@pytest.mark.parametrize(
    ("name", "candidates"), [(name, "positives") for name in ASSIGNERS] + [(name, "all") for name in WITH_ALL]
)
def test_points_are_assigned_as_squares_and_lie_in_their_gt(name, candidates):
    """Point by point: what the library assigns to squares of eight strides, without what lies outside of its gt."""
    model = model_of(name, "fcos-", MLCConfig(candidates=candidates, start_epoch=0))
    small = {"boxes": torch.tensor([[17.0, 17, 19, 19], [41, 33, 46, 39]]), "labels": torch.tensor([1, 2])}
    levels, targets, predictions, found = labeled(model, targets=[BATCHES[0][0], small])
    squares = []
    for level, stride in zip(levels, STRIDES, strict=True):
        x, y = level.unbind(1)
        squares.append(torch.stack((x - 4 * stride, y - 4 * stride, x + 4 * stride, y + 4 * stride), 1))
    theirs = library_assigner(name, candidates)(squares, targets, predictions)
    ours, points = found.assignment, torch.cat(levels).tolist() * 2
    check_invariants(ours, targets, len(points) // 2)
    gts = torch.cat([t["boxes"] for t in targets]).tolist()
    dropped = 0
    for i, (x, y) in enumerate(points):
        gt = theirs.candidate_gt[i].item()
        x1, y1, x2, y2 = gts[gt]
        if gt < 0 or (x1 < x < x2 and y1 < y < y2):
            assert ours.candidate_gt[i] == gt and ours.labels[i] == theirs.labels[i]
            assert ours.metric[i] == theirs.metric[i] and ours.originally_ignored[i] == theirs.originally_ignored[i]
            continue
        dropped += 1
        assert ours.candidate_gt[i] == -1 and ours.metric[i] == 0 and not ours.originally_ignored[i]
        assert ours.labels[i] == (-1 if theirs.labels[i] == 1 else theirs.labels[i])
        task = found.task  # trained by neither task, whatever mutual labeling decides
        assert task.cls_labels[i] <= 0 and not task.loc_positive[i] and not task.iou_positive[i]
        assert task.cls_weights[i] == (0 if ours.labels[i] == -1 else 1)
    assert (dropped > 0) == (name in ("paa", "mal", "sim_ota") or candidates == "all")
    assert (ours.labels == 1).any() and found.task.loc_positive.any()
    assert ours.originally_ignored.any() == (candidates == "all" and name != "mal")  # MAL begins with whole bags


def test_keep_inside_by_hand():
    """Two images of four points; gt 0 in the first, gt 1 in the second. A point on a side lies outside."""
    points = torch.tensor([[4.0, 4.0], [8.0, 4.0], [20.0, 4.0], [4.0, 8.0]])
    boxes = torch.tensor([[0.0, 0, 8, 9], [3, 3, 30, 9]])
    found = keep_inside(
        Assignment(
            labels=torch.tensor([1, 1, 0, 0, 1, 1, 1, -1], dtype=torch.int8),
            candidate_gt=torch.tensor([0, 0, 0, -1, 1, 1, 1, 1]),
            originally_ignored=torch.tensor([False, False, True, False, False, False, False, True]),
            metric=torch.tensor([0.1, 0.2, 0.3, 0.0, 0.5, 0.6, 0.7, 0.8]),
        ),
        points,
        boxes,
    )
    assert found.labels.tolist() == [1, -1, 0, 0, 1, 1, 1, -1] and found.labels.dtype == torch.int8
    assert found.candidate_gt.tolist() == [0, -1, -1, -1, 1, 1, 1, 1]
    assert found.originally_ignored.tolist() == [False] * 7 + [True]
    torch.testing.assert_close(found.metric, torch.tensor([0.1, 0.0, 0.0, 0.0, 0.5, 0.6, 0.7, 0.8]))


@pytest.mark.parametrize("name", ASSIGNERS)
def test_anchors_are_assigned_as_by_the_library(name):
    model = model_of(name, "retinanet")
    levels, targets, predictions, found = labeled(model)
    rule = ATSSAssigner(topk=81) if name == "atss" else library_assigner(name, "positives")
    theirs = rule(levels, targets, predictions)
    for key in ("labels", "candidate_gt", "originally_ignored", "metric"):
        assert torch.equal(getattr(found.assignment, key), getattr(theirs, key)), key
    assert (theirs.labels == 1).any()


@pytest.mark.parametrize(
    ("name", "candidates", "allowed"),
    [
        ("atss", "own_levels", "'positives', 'all' or None"),
        ("mal", "own_levels", "'positives', 'all' or None"),
        ("task_aligned", "all", "'positives' or None"),
        ("sim_ota", "own_levels", "'positives' or None"),
    ],
)
@pytest.mark.parametrize("detector", DETECTORS)
def test_candidates_that_the_assigner_does_not_have(name, candidates, allowed, detector):
    with pytest.raises(ValueError, match=f"mlc.candidates must be {allowed} with model.assigner='{name}', got"):
        assigner_of(name, detector, MLCConfig(candidates=candidates))


def test_mals_progress_follows_the_epochs():
    """From all anchors of a bag to one for each gt."""
    model = model_of("mal", "fcos-", MLCConfig(ml=False))
    counts = []
    for epoch in (0, 2.5, 7.5, 10, 11):
        model.set_epoch(epoch)
        assert model.assigner.assigner.progress == min(epoch / 10, 1)
        counts.append((labeled(model)[3].assignment.labels == 1).sum().item())
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[2] > counts[3] == counts[4]
    assert counts[3] <= 3  # gts


def test_settings_reach_the_model():
    def built(name, **settings):
        config = preset(name)
        for key, value in {"model.backbone": "resnet18", "model.fpn_channels": 32, **settings}.items():
            config = override(config, key, value)
        return build_model(config, 5)

    model = built("retinanet_r50_mal_mlc", **{"mlc.candidates": "all", "model.cls_loss": "varifocal"})
    assert model.assigner.assigner == MALAssigner(first_label=1, candidates="all") and model.cls_loss == "varifocal"
    assert model.assigner.epochs == 24 and not model.assigner.points
    assert model.assigner.strides == STRIDES == tuple(model.strides)
    fcos = built("fcos_r50_atss")
    assert fcos.assigner.points and fcos.assigner.strides == tuple(fcos.strides) and fcos.cls_loss == "focal"
    own = MLCConfig(metric="alignment", candidates=None)
    assert assigner_of("paa", "fcos-", own).assigner.candidates == "positives"
    for name, setting, value, text in (
        ("rpn_r50", "model.assigner", "atss", "model.assigner is no setting of 'rpn'"),
        ("rpn_r50", "model.cls_loss", "varifocal", "model.cls_loss is no setting of 'rpn'"),
        (
            "fcos_r50",
            "model.assigner",
            "hungarian",
            "model.assigner must be one of 'atss', .*got 'hungarian'",
        ),
        ("fcos_r50", "model.cls_loss", "gfl", "model.cls_loss must be one of 'focal', .*got 'gfl'"),
        ("fcos_r50_atss", "model.center_sampling_radius", 1.5, "is no setting of the assigner 'atss'"),
        ("fcos_r50_atss_mlc", "mlc.candidates", "own_levels", "mlc.candidates must be .*, got 'own_levels'"),
    ):
        with pytest.raises(ValueError, match=text):
            built(name, **{setting: value})


@pytest.mark.parametrize("name", ASSIGNERS)
@pytest.mark.parametrize("detector", ("fcos", *DETECTORS))
def test_trains_in_bfloat16(detector, name):
    """Ordinary images, half of them empty, all, and crowd; mutual labeling from the fifth step, every loss."""
    model = model_of(name, detector, MLCConfig.paper(detector, start_epoch=4))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in range(12):
        model.cls_loss = CLS_LOSSES[step % 3]
        model.set_epoch(step)
        with torch.autocast("cpu", torch.bfloat16):
            losses = model(IMAGES, BATCHES[step % 4])
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values()), (step, losses)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    assert model.mutual


@pytest.mark.parametrize("name", [None, "paa", "task_aligned"])
@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("mutual", [False, True])
def test_the_loss_of_quality(detector, name, mutual):
    """Its labels and weights are the task's; its targets the IoUs, or of the task-aligned assigner TOOD's."""
    mlc = MLCConfig(iur=False, start_epoch=0 if mutual else 9)
    model = build(detector, mlc=mlc) if name is None else model_of(name, detector, mlc)
    model.cls_loss = "quality_focal"
    nn.init.normal_(model.head.bbox_regression.weight, std=0.1)
    found = labeled(model)[3]
    task, assignment = found.task, found.assignment
    positive = task.cls_labels > 0
    assert positive.any() and not task.quality.requires_grad and task.quality.dtype == torch.float32
    want = task.ious.clone()
    if name == "task_aligned":
        for gt in assignment.candidate_gt.unique()[1:]:
            own = (assignment.candidate_gt == gt) & (assignment.labels == 1)
            want[own] = assignment.metric[own] / assignment.metric[own].max() * task.ious[own].max()
    torch.testing.assert_close(task.quality[positive], want[positive])
    labels = (task.cls_labels, want, task.cls_weights)
    outputs, sizes, _ = model.head_outputs(IMAGES)
    targets = prepare_targets(BATCHES[0], 2, torch.device("cpu"), 3)
    logits = outputs["cls_logits"].flatten(0, 1)
    count = positive.sum() if detector == "fcos-" else positive.view(2, -1).sum(1).clamp(min=1).sum()
    for kind, loss in (("quality_focal", quality_focal_loss), ("varifocal", varifocal_loss)):
        model.cls_loss = kind
        losses = model.losses(outputs, sizes, targets)
        torch.testing.assert_close(losses["classification"], loss(logits, *labels) / count)
        model.zero_grad()
        losses["classification"].backward(retain_graph=True)
        gradient = model.head.bbox_regression.weight.grad
        assert gradient is None or not gradient.any()  # the quality is a constant


@pytest.mark.parametrize(
    ("detector", "name", "cls_loss"),
    [("fcos-", "atss", "quality_focal"), ("fcos-", "sim_ota", "focal"), ("retinanet", "paa", "varifocal")],
)
def test_boxes_learn(detector, name, cls_loss):
    model = build(detector, mlc=MLC, assigner=assigner_of(name, detector), cls_loss=cls_loss)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(30):
        losses = model(IMAGES, BATCHES[0])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        totals.append(losses["bbox_regression"].item())
    assert sum(totals[-4:]) < 0.8 * sum(totals[:4]), totals
