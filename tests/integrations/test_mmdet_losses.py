"""The losses of the heads in MMDetection: equal to its own without the method, and the method's with it."""

import warnings

import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData
from small_mmdet import STRIDES, batch, build, flat_outputs, losses_of, twins

import mlc_ext
from mlc_ext import MLCConfig

KINDS = ("FCOSHead", "RetinaHead", "RPNHead")
every_kind = pytest.mark.parametrize("kind", KINDS)
OFF = {"ml": False, "iur": False}
GIOU = {"reg_decoded_bbox": True, "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0}}
SMOOTH = {"loss_bbox": {"type": "SmoothL1Loss", "beta": 0.11, "loss_weight": 1.0}}


def data_for(kind):
    return batch(num_classes=1 if kind == "RPNHead" else 3)


def assert_equal_losses(found, expected):
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


@every_kind
@pytest.mark.parametrize("mlc", [OFF, {"start_epoch": 8}])
def test_without_the_method_or_before_its_start_they_are_mmdetections(kind, mlc):
    plain, ours = twins(kind, mlc)
    ours.state.set_epoch(0)
    found, expected = losses_of(ours, data_for(kind)), losses_of(plain, data_for(kind))
    assert_equal_losses(found, expected)
    assert all(found[name] == 0 for name in found.keys() - expected.keys())


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("FCOSHead", {}),
        ("FCOSHead", {"center_sampling": True, "norm_on_bbox": True, "loss_bbox": {"type": "GIoULoss"}}),
        ("RetinaHead", {}),
        ("RetinaHead", SMOOTH),
        ("RetinaHead", GIOU),
        ("RPNHead", {}),
        ("RPNHead", GIOU),
    ],
)
@pytest.mark.parametrize("ignored", [False, True])
def test_the_baselines_targets_by_the_methods_code(kind, changes, ignored):
    """A prediction alignment of weight 1e-9 makes the heads compute all losses themselves, from TaskTargets."""
    plain, ours = twins(kind, OFF | {"alignment": 1e-9}, **changes)
    for seed in range(3):
        data = batch(seed, num_classes=1 if kind == "RPNHead" else 3, ignored=ignored)
        assert_equal_losses(losses_of(ours, data), losses_of(plain, data))


@every_kind
def test_the_gradient_is_mmdetections(kind):
    plain, ours = twins(kind, OFF | {"alignment": 1e-12})
    for head in (plain, ours):
        sum(losses_of(head, data_for(kind)).values()).backward()
    expected = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-6)


def test_mutual_labels_of_retinanet():
    """Against the library's own assigner, targets and losses."""
    head = build("RetinaHead", mlc={"start_epoch": 0})
    head.state.set_epoch(1)
    data = batch()
    features, gts, metas, _ = data
    found = losses_of(head, data)
    logits, deltas, ious = flat_outputs(head, features, (3, 4, 1))
    anchors = head.prior_generator.grid_priors([x.shape[-2:] for x in features], device="cpu")
    flags = [
        torch.cat(head.prior_generator.valid_flags([x.shape[-2:] for x in features], m["pad_shape"], "cpu"))
        for m in metas
    ]
    inside = torch.cat(flags)
    priors = torch.cat(anchors).repeat(len(gts), 1)
    boxes = head.bbox_coder.decode(priors, deltas)
    parts = [  # one image at a time: MMDetection matches the anchors inside of it alone
        mlc_ext.MaxIoUAssigner()([torch.cat(anchors)[flag]], [{"boxes": gt.bboxes}])
        for flag, gt in zip(flags, gts, strict=True)
    ]
    offset, candidate = 0, []
    for part, gt in zip(parts, gts, strict=True):
        candidate.append(torch.where(part.candidate_gt >= 0, part.candidate_gt + offset, -1))
        offset += len(gt)
    assignment = mlc_ext.Assignment(
        torch.cat([part.labels for part in parts]),
        torch.cat(candidate),
        torch.cat([part.originally_ignored for part in parts]),
    )
    gt_boxes, gt_labels = torch.cat([gt.bboxes for gt in gts]), torch.cat([gt.labels for gt in gts])
    config = MLCConfig.paper("retinanet")
    task = mlc_ext.task_targets(
        assignment, logits[inside], boxes[inside], gt_boxes, gt_labels, config, mutual=True, first_label=0
    )
    counts = [int(flag.sum()) for flag in flags]

    def divisor(mask):
        return sum(part.sum().clamp(min=1) for part in mask.split(counts))

    cls = mlc_ext.sigmoid_focal_loss(logits[inside], task.cls_labels, task.cls_weights)
    torch.testing.assert_close(found["loss_cls"], cls / divisor(task.cls_labels > 0))
    positive = task.loc_positive
    target = head.bbox_coder.encode(priors[inside][positive], task.matched_boxes[positive])
    box = ((deltas[inside][positive] - target).abs().sum(1) * task.loc_weights[positive]).sum()
    torch.testing.assert_close(found["loss_bbox"], box / divisor(positive))
    rescoring = mlc_ext.mlc_losses(task, ious[inside].squeeze(1), config)["iou_rescoring"]
    torch.testing.assert_close(found["loss_iou"], rescoring)
    baseline = mlc_ext.task_targets(
        assignment, logits[inside], boxes[inside], gt_boxes, gt_labels, config, mutual=False, first_label=0
    )
    assert not torch.equal(baseline.cls_labels, task.cls_labels)  # the split did something


@pytest.mark.parametrize(
    ("candidates", "metric"), [(None, "crossed"), ("own_levels", "crossed"), ("all", "crossed"), (None, "alignment")]
)
def test_mutual_labels_of_fcos(candidates, metric):
    head = build("FCOSHead", mlc={"start_epoch": 0, "candidates": candidates, "metric": metric})
    head.state.set_epoch(1)
    data = batch(1)
    features, gts, _, _ = data
    found = losses_of(head, data)
    logits, distances, quality = flat_outputs(head, features, (3, 4, 1))
    levels = head.prior_generator.grid_priors([x.shape[-2:] for x in features], device="cpu")
    boxes = head.bbox_coder.decode(torch.cat(levels).repeat(len(gts), 1), distances)
    by_default = {"crossed": "positives", "alignment": "all"}[metric]
    assigner = mlc_ext.FCOSAssigner(STRIDES, head.regress_ranges, candidates=candidates or by_default)
    config = head.state.config
    task = mlc_ext.task_targets(
        assigner(levels, [{"boxes": gt.bboxes} for gt in gts]),
        logits, boxes, torch.cat([gt.bboxes for gt in gts]), torch.cat([gt.labels for gt in gts]),
        config, mutual=True, first_label=0,
    )  # fmt: skip
    focal = mlc_ext.sigmoid_focal_loss(logits, task.cls_labels, task.cls_weights)
    torch.testing.assert_close(found["loss_cls"], focal / task.num_cls_positive)
    iou = mlc_ext.paired_box_iou(boxes, task.matched_boxes).clamp(min=1e-6).log().neg() * task.loc_weights
    torch.testing.assert_close(found["loss_bbox"], iou.sum() / task.num_loc_positive)
    rescoring = mlc_ext.mlc_losses(task, quality.squeeze(1), config)["iou_rescoring"]
    torch.testing.assert_close(found["loss_iou"], rescoring)
    assert "loss_centerness" not in found


def test_fcos_keeps_its_centerness_without_rescoring():
    head = build("FCOSHead", mlc={"start_epoch": 0, "iur": False})
    head.state.set_epoch(1)
    found = losses_of(head, batch(1))
    assert found.keys() == {"loss_cls", "loss_bbox", "loss_centerness"}
    assert all(0 < loss < 50 for loss in found.values())


def test_samples_of_rpn_follow_the_weights():
    """With alpha 2 an ignored anchor has the square of its margin as weight; those of weight 0 are never drawn."""
    head = build("RPNHead", mlc={"start_epoch": 0})
    head.state.set_epoch(1)
    tasks = []
    sampled = head._sampled
    head._sampled = lambda task, *rest: tasks.append((task, sampled(task, *rest))) or tasks[-1][1]
    found = losses_of(head, batch(3, counts=(5, 4), num_classes=1))
    assert found.keys() == {"loss_rpn_cls", "loss_rpn_bbox", "loss_rpn_iou"}
    task, (drawn, cls_divisor, loc_divisor) = tasks[0]
    torch.manual_seed(0)  # as losses_of
    positive, negative, loc = mlc_ext.sample_tasks(task, num_images=2, size=40, max_positive=20)
    assert torch.equal(drawn.cls_weights, task.cls_weights * (positive | negative).flatten())
    assert torch.equal(drawn.loc_weights, task.loc_weights * loc.flatten())
    assert 0 < loc.sum() < task.loc_positive.sum() and not torch.equal(loc, positive)
    assert cls_divisor == loc_divisor == drawn.sampled_normalizer == positive.sum() + negative.sum()


@pytest.mark.parametrize("kind", ["RetinaHead", "RPNHead"])
def test_anchors_in_ignored_boxes_are_no_candidates(kind):
    """MaxIoUAssigner ignores them too, but for another reason than their IoU with a gt."""
    head = build(kind, mlc={"start_epoch": 0})
    head.state.set_epoch(1)
    tasks, targets = [], head.targets
    head.targets = lambda assignment, *rest: tasks.append(assignment) or targets(assignment, *rest)
    _, gts, metas, _ = data = batch(counts=(4,), num_classes=1)
    levels = head.prior_generator.grid_priors([x.shape[-2:] for x in data[0]], device="cpu")
    everywhere = InstanceData(bboxes=torch.tensor([[-1e3, -1e3, 1e3, 1e3]]))
    for ignore in (None, [everywhere]):
        losses_of(head, (*data[:3], ignore))
    without, within = tasks
    assert without.originally_ignored.sum() > 10 and len(without.labels) == sum(map(len, levels))
    assert (within.labels == -1).all() and (within.candidate_gt == -1).all()


def test_no_anchor_inside_of_the_image():
    head = build("RetinaHead", mlc={"start_epoch": 0})
    head.state.set_epoch(1)
    head.train_cfg["allowed_border"] = 0
    features, gts, metas, _ = batch(counts=(1,))
    small = [meta | {"img_shape": (3, 3), "pad_shape": (3, 3)} for meta in metas]
    with pytest.raises(ValueError, match=r"no anchor is inside of the image \(allowed_border=0\)"):
        losses_of(head, (features, gts, small, None))


@every_kind
@pytest.mark.parametrize("epoch", [0, 8])
def test_losses_by_keywords(kind, epoch):
    head = build(kind, mlc={"start_epoch": 8})
    head.state.set_epoch(epoch)
    data = data_for(kind)
    expected = losses_of(head, data)
    names = ("cls_scores", "bbox_preds", "centernesses" if kind == "FCOSHead" else "ious")
    outputs = dict(zip(names, head(data[0]), strict=True))
    torch.manual_seed(0)
    found = head.loss_by_feat(**outputs, batch_gt_instances=data[1], batch_img_metas=data[2])
    assert_equal_losses({name: sum(x) if isinstance(x, list) else x for name, x in found.items()}, expected)


@every_kind
@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (60, 3)])
def test_few_and_many_gts(kind, counts):
    head = build(kind, mlc={"start_epoch": 0})
    head.state.set_epoch(1)
    losses = losses_of(head, batch(counts=counts, num_classes=1 if kind == "RPNHead" else 3))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@every_kind
def test_box_types(kind):
    head = build(kind, mlc={"start_epoch": 0})
    head.state.set_epoch(1)
    data = data_for(kind)
    expected = losses_of(head, data)
    for instances in data[1]:
        instances.bboxes = HorizontalBoxes(instances.bboxes)
    if kind != "FCOSHead":
        head.prior_generator.use_box_type = True
    assert_equal_losses(losses_of(head, data), expected)


@every_kind
def test_half_precision_under_autocast(kind):
    head = build(kind, mlc={"start_epoch": 0})
    head.state.set_epoch(1)
    expected = losses_of(head, data_for(kind))
    with torch.autocast("cpu", torch.bfloat16):
        found = losses_of(head, data_for(kind))
    for name, loss in found.items():
        torch.testing.assert_close(loss.float(), expected[name].float(), rtol=0.2, atol=0.05)


@every_kind
def test_a_warning_without_the_hook(kind):
    head = build(kind)
    with pytest.warns(UserWarning, match=f"MLC{kind}: custom_hooks has no MLCEpochHook. Not started: mutual labeling"):
        losses_of(head, data_for(kind))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses_of(head, data_for(kind))  # once


def test_refused_settings():
    softmax = {"type": "CrossEntropyLoss", "use_sigmoid": False}
    with pytest.raises(ValueError, match="MLCRetinaHead: loss_cls must have use_sigmoid=True"):
        build("RetinaHead", loss_cls=softmax)
    with pytest.raises(ValueError, match="MLCRetinaHead: candidates 'own_levels' is for FCOS"):
        build("RetinaHead", mlc={"candidates": "own_levels"})
    with pytest.raises(TypeError, match="alfa"):
        build("FCOSHead", mlc={"alfa": 1})
    train = {"assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.7, "neg_iou_thr": 0.3}, "allowed_border": -1}
    balanced = {"type": "IoUBalancedNegSampler", "num": 10, "pos_fraction": 0.5}
    with pytest.raises(TypeError, match="MLCRPNHead: sampler must be a PseudoSampler or RandomSampler, got .*IoUBal"):
        build("RPNHead", train_cfg=train | {"sampler": balanced})
    adds_gts = train | {"sampler": {"type": "RandomSampler", "num": 10, "pos_fraction": 0.5}}
    for kind in ("RPNHead", "RetinaHead"):
        with pytest.raises(ValueError, match=f"MLC{kind}: the sampler needs add_gt_as_proposals=False"):
            build(kind, train_cfg=adds_gts)
