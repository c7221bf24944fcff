"""Losses of converted torchvision detectors: torchvision's own as the baseline, brute force for the method."""

import copy

import pytest
import torch
from small_detectors import DETECTORS, batch, fcos, losses_of, retinanet
from torchvision.models.detection import keypointrcnn_resnet50_fpn, maskrcnn_resnet50_fpn
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from mlc_ext import MLCConfig, reference
from mlc_ext.integrations.torchvision import apply_mlc, set_epoch


@pytest.fixture(params=DETECTORS)
def detector(request):
    torch.manual_seed(3)
    return DETECTORS[request.param]()


def assert_equal_losses(expected, losses):
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("options", [{"ml": False, "iur": False}, {}], ids=["off", "before the start"])
def test_losses_and_gradients_are_torchvisions(detector, options):
    expected = losses_of(detector)
    sum(expected.values()).backward()
    converted = apply_mlc(copy.deepcopy(detector), **options)
    converted.zero_grad()
    set_epoch(converted, 11.9)
    losses = losses_of(converted)
    sum(losses.values()).backward()
    assert_equal_losses(expected, losses)
    added = set(losses) - set(expected)
    assert len(added) == (0 if options else 1) and all(losses[name] == 0 for name in added)
    gradients = dict(converted.named_parameters())
    for name, parameter in detector.named_parameters():
        torch.testing.assert_close(gradients[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["l1", "smooth_l1", "giou", "diou", "ciou"])
def test_box_loss_of_the_model_stays(kind):
    plain = retinanet()
    plain.head.regression_head._loss_type = kind
    converted = apply_mlc(copy.deepcopy(plain), ml=False, iur=False)
    assert_equal_losses(losses_of(plain), losses_of(converted))


def test_no_image_has_a_box(detector):
    images, targets = batch()
    empty = [{name: value[:0] for name, value in target.items()} for target in targets]
    expected = losses_of(detector, data=(images, empty))
    converted = apply_mlc(copy.deepcopy(detector))
    for epoch in (0, 12):
        set_epoch(converted, epoch)
        losses = losses_of(converted, data=(images, empty))
        baseline = {name: value for name, value in expected.items() if name != "bbox_ctrness" and "rpn" not in name}
        if epoch == 0 or "loss_objectness" not in expected:  # afterwards the RPN draws in another way
            assert_equal_losses(baseline, losses)
        converted.zero_grad()
        sum(losses.values()).backward()
        for name, parameter in converted.named_parameters():
            assert not parameter.requires_grad or parameter.grad is not None, name
            assert parameter.grad is None or parameter.grad.isfinite().all(), name


def compute_loss_arguments(model, data):
    """The losses, and the arguments with which torchvision calls head.compute_loss."""
    seen = []
    original = type(model.head).compute_loss

    def record(*args):
        seen.append(args)
        return original(model.head, *args)

    model.head.compute_loss = record
    losses = losses_of(model, data=data)
    del model.head.compute_loss
    return losses, *seen[0]


def brute_force(model, alpha, targets, outputs, anchors, matched):
    """Labels by image with mlc_ext.reference: [(cls label, cls weight, loc gt or -1, loc weight, IoU)] of [A] each."""
    logits, deltas = outputs["cls_logits"].detach(), outputs["bbox_regression"].detach()
    results = []
    for i, target in enumerate(targets):
        coder = model.box_coder
        decode = coder.decode_single if hasattr(coder, "decode_single") else coder.decode
        boxes, scores = decode(deltas[i], anchors[i]), logits[i].sigmoid()
        num_gts = len(target["boxes"])
        cls_label, loc_gt = torch.zeros(len(boxes), dtype=torch.int64), torch.full((len(boxes),), -1)
        cls_label[matched[i] == -2] = -1
        cls_weight, loc_weight, iou = (torch.zeros(len(boxes)) for _ in range(3))
        cls_weight[matched[i] == -1] = 1.0
        best = box_iou(target["boxes"], anchors[i]).argmax(0) if num_gts else None
        for k in range(num_gts):
            originally_ignored = (matched[i] == -2) & (best == k)
            group = ((matched[i] == k) | originally_ignored).nonzero().flatten()
            label = target["labels"][k]
            s, u = scores[group, label], box_iou(boxes[group], target["boxes"][k : k + 1]).squeeze(1)
            iou[group] = u
            for values, task in ((u, "cls"), (s, "loc")):
                tau = reference.otsu_threshold(values)
                ignored = originally_ignored[group]
                splittable = len(values.unique()) > 1
                positive = values > tau if splittable else ~ignored
                weight = torch.where(ignored, (values - tau).abs() ** alpha, 1.0)
                if task == "cls":
                    cls_label[group] = torch.where(positive, label, 0)
                    cls_weight[group] = weight
                    if not splittable:
                        cls_label[group[ignored]], cls_weight[group[ignored]] = -1, 0.0
                else:
                    loc_gt[group[positive]] = k
                    loc_weight[group] = torch.where(positive, weight.float(), 0.0)
        results.append((cls_label, cls_weight, loc_gt, loc_weight, iou))
    return results


@pytest.mark.parametrize("build", [fcos, retinanet])
def test_losses_of_mutual_labeling_by_brute_force(build):
    torch.manual_seed(1)
    model = apply_mlc(build(), start_epoch=2)
    if build is retinanet:
        model.head.regression_head._loss_type = "giou"
    set_epoch(model, 2)
    losses, targets, outputs, anchors, matched = compute_loss_arguments(model, batch())
    images = brute_force(model, 0.5 if build is retinanet else 0.0, targets, outputs, anchors, matched)
    per_image, union, iou_loss = [], 0, 0.0
    quality = outputs["iou_logits" if build is retinanet else "bbox_ctrness"].squeeze(2).sigmoid()
    for i, (label, weight, loc_gt, loc_weight, iou) in enumerate(images):
        onehot = torch.zeros_like(outputs["cls_logits"][i])
        onehot[label > 0, label[label > 0]] = 1.0
        focal = sigmoid_focal_loss(outputs["cls_logits"][i], onehot).sum(1)
        positive = loc_gt >= 0
        coder = model.box_coder
        decode = coder.decode_single if hasattr(coder, "decode_single") else coder.decode
        boxes = decode(outputs["bbox_regression"][i][positive], anchors[i][positive])
        gts = targets[i]["boxes"][loc_gt[positive]] if len(targets[i]["boxes"]) else boxes
        giou = generalized_box_iou_loss(boxes, gts) * loc_weight[positive]
        per_image.append(((focal * weight).sum(), (label > 0).sum(), giou.sum(), positive.sum()))
        either = positive | (label > 0)
        union += either.sum()
        iou_loss = iou_loss + ((quality[i] - iou)[either] ** 2).sum()
    focal, cls_count, giou, loc_count = (torch.stack(column) for column in zip(*per_image, strict=True))
    if build is retinanet:
        expected = (focal / cls_count.clamp(min=1)).mean(), (giou / loc_count.clamp(min=1)).mean()
    else:
        expected = focal.sum() / cls_count.sum(), giou.sum() / loc_count.sum()
    assert cls_count.sum() > 0 and loc_count.sum() > 0
    torch.testing.assert_close(losses["classification"], expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses["bbox_regression"], expected[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses["iou_rescoring"], iou_loss / union, rtol=1e-5, atol=1e-6)


def test_every_part_of_the_method_changes_the_losses(detector):
    plain = losses_of(detector)
    values = []
    others = {"ml": False, "iur": False, "alignment": 1.0}, {"iur": False, "metric": "alignment"}
    for options in ({"iur": False}, {"ml": False}, {}, *others):
        converted = apply_mlc(copy.deepcopy(detector), start_epoch=0, **options)
        values.append(sum(losses_of(converted).values()).item())
    assert len({sum(plain.values()).item(), *values}) == 6


@pytest.mark.parametrize("options", [{"candidates": "all"}, {"metric": "alignment"}])
def test_fcos_with_all_points_as_candidates(options):
    torch.manual_seed(0)
    plain = fcos()
    few, many = (
        apply_mlc(copy.deepcopy(plain), start_epoch=0, **each) for each in ({"candidates": "positives"}, options)
    )
    assert losses_of(few)["classification"] != losses_of(many)["classification"]
    images, targets = batch()
    _, _, outputs, anchors, matched = compute_loss_arguments(many, (images, targets))
    assignment = many.head._assignment(matched, anchors, targets)
    centers = (anchors[0][:, :2] + anchors[0][:, 2:]) / 2
    offset = 0
    for i, target in enumerate(targets):
        gts = target["boxes"]
        inside = ((centers[:, None] > gts[:, :2]) & (centers[:, None] < gts[:, 2:])).all(2)
        area = torch.where(inside, (gts[:, 2:] - gts[:, :2]).prod(1), torch.inf)
        expected = torch.full((len(centers),), -1)
        if len(gts):
            expected = torch.where(inside.any(1), area.argmin(1) + offset, -1)
        expected = torch.where(matched[i] >= 0, matched[i] + offset, expected)
        assert torch.equal(assignment.candidate_gt.view(len(targets), -1)[i], expected)
        offset += len(gts)
    assert assignment.originally_ignored.sum() > 0


@pytest.mark.parametrize("build", [fcos, retinanet])
def test_a_label_out_of_range_raises(build):
    images, targets = batch()
    targets[0]["labels"][0] = 91
    with pytest.raises(ValueError, match=r"gt_labels must be in 0\.\.90"):
        losses_of(apply_mlc(build()), data=(images, targets))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(detector, dtype):
    model = apply_mlc(detector, start_epoch=1)
    for epoch in (0, 1):
        set_epoch(model, epoch)
        expected = losses_of(model)
        with torch.autocast("cpu", dtype):
            losses = losses_of(model)
        for name, value in losses.items():
            assert value.dtype == torch.float32 and value.isfinite(), name
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        if epoch == 0:  # later on, a changed label changes a loss by more than the rounding
            for name in losses:
                torch.testing.assert_close(losses[name], expected[name], rtol=0.1, atol=0.05)


@pytest.mark.parametrize("build", [maskrcnn_resnet50_fpn, keypointrcnn_resnet50_fpn])
def test_relatives_of_faster_rcnn(build):
    images, targets = batch()
    for target in targets:
        count = len(target["boxes"])
        target["labels"] = torch.ones_like(target["labels"])
        target["masks"] = torch.ones(count, 200, 200, dtype=torch.uint8)
        target["keypoints"] = torch.ones(count, 17, 3) * 50
    images = [torch.nn.functional.pad(i, (0, 200 - i.shape[2], 0, 200 - i.shape[1])) for i in images]
    model = build(weights=None, weights_backbone=None, num_classes=2, min_size=96, max_size=96)
    expected = losses_of(model, data=(images, targets))
    apply_mlc(model, start_epoch=1)
    set_epoch(model, 0)
    assert_equal_losses(expected, losses_of(model, data=(images, targets)))
    set_epoch(model, 1)
    losses = losses_of(model, data=(images, targets))
    assert losses["loss_rpn_iou_rescoring"] > 0 and all(value.isfinite() for value in losses.values())


def test_start_of_each_part():
    model = apply_mlc(retinanet(), MLCConfig.paper("retinanet", start_epoch=4, iur_start_epoch=1.5))
    begins = {}
    for epoch in (0, 1, 1.5, 3.9, 4):
        set_epoch(model, epoch)
        losses = losses_of(model)
        begins[epoch] = losses["iou_rescoring"].item() > 0, losses["classification"].item()
    assert [on for on, _ in begins.values()] == [False, False, True, True, True]
    assert begins[0][1] == begins[3.9][1] != begins[4][1]
