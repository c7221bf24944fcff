"""Detections and proposals of converted torchvision detectors, and their predictions before NMS."""

import copy

import pytest
import torch
from small_detectors import DETECTORS, assert_same_detections, batch, faster_rcnn, losses_of, retinanet
from torchvision.ops import batched_nms

from mlc_ext import Divergence
from mlc_ext.integrations.torchvision import apply_mlc, raw_predictions, set_epoch


def strong(model):
    """Class scores, deltas and IoUs that differ, so that thresholds and ranks have something to do."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(layer in name for layer in ("cls_logits", "bbox_reg", "bbox_ctrness", "iou_logits", "bbox_pred")):
                parameter.normal_(std=0.3 if "cls" in name or "iou" in name else 0.05)
                if name.endswith("cls_logits.bias"):
                    parameter.sub_(3.0)
    return model.eval()


@torch.no_grad()
def detect(model, images=None):
    return model.eval()(batch()[0] if images is None else images)


@pytest.mark.parametrize("name", DETECTORS)
def test_before_the_iou_layer_is_trained_the_ranking_is_torchvisions(name):
    torch.manual_seed(0)
    plain = strong(DETECTORS[name](**({"box_score_thresh": 0.0} if name == "faster_rcnn" else {})))
    model = apply_mlc(copy.deepcopy(plain))
    set_epoch(model, 11)
    losses_of(model)
    for expected, found in zip(detect(plain), detect(model), strict=True):
        assert len(expected["boxes"]) > 20
        assert_same_detections(expected, found)


def test_retinanet_ranks_by_the_product():
    torch.manual_seed(0)
    model = strong(apply_mlc(retinanet(score_thresh=0.1, topk_candidates=10_000), start_epoch=0))
    model.head.regression_head.iou_logits.trained.fill_(1)
    images = batch()[0]
    for raw, found in zip(raw_predictions(model, images), detect(model, images), strict=True):
        prior, column = (raw["raw_scores"] > 0.1).nonzero().unbind(1)  # the class score, not the product
        scores, boxes = raw["scores"][prior, column], raw["boxes"][prior]
        assert (scores < 0.1).any()
        keep = batched_nms(boxes, scores, column, model.nms_thresh)[: model.detections_per_img]
        assert len(keep) > 20
        torch.testing.assert_close(found["scores"], scores[keep])
        assert torch.equal(found["labels"], column[keep])
        torch.testing.assert_close(found["boxes"], boxes[keep], rtol=1e-4, atol=1e-3)


def test_proposals_are_ranked_by_the_product():
    torch.manual_seed(0)
    model = strong(apply_mlc(faster_rcnn(rpn_pre_nms_top_n_test=100_000, rpn_post_nms_top_n_test=100_000)))
    images, _ = model.transform(batch()[0][:1])
    features = model.backbone(images.tensors)
    proposals = {}
    for trained in (0.0, 1.0):
        model.rpn.head.iou_logits.trained.fill_(trained)
        proposals[trained] = model.rpn(images, features)[0][0]
    raw = raw_predictions(model, batch()[0][:1])[0]
    assert not torch.equal(raw["scores"], raw["raw_scores"])
    width = batch()[0][0].shape[2] / images.image_sizes[0][1]
    order = []
    for box in proposals[1.0][:50]:
        order.append((raw["boxes"] - box * width).abs().sum(1).argmin())
    ranked = raw["scores"][torch.stack(order)].squeeze(1)
    assert (ranked.diff() <= 1e-6).all()
    assert ranked[0] == raw["scores"].max()
    assert proposals[0.0].shape != proposals[1.0].shape or not torch.equal(proposals[0.0], proposals[1.0])


@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize("name", DETECTORS)
def test_raw_predictions(name, converted):
    torch.manual_seed(0)
    model = strong(DETECTORS[name]())
    if converted:
        apply_mlc(model)
    images, targets = batch()
    divergence = Divergence(first_label=0)
    for raw, found, image, target in zip(
        raw_predictions(model, images), detect(model, images), images, targets, strict=True
    ):
        height, width = image.shape[1:]
        assert (raw["boxes"] >= 0).all() and (raw["boxes"] <= torch.tensor([width, height, width, height])).all()
        assert raw["scores"].shape == (len(raw["boxes"]), 1 if name == "faster_rcnn" else 91)
        assert raw["boxes"].dtype == raw["scores"].dtype == torch.float32 and not raw["scores"].requires_grad
        if name != "faster_rcnn":
            box, label, score = (found[key] for key in ("boxes", "labels", "scores"))
            distance = torch.cdist(box, raw["boxes"], compute_mode="donot_use_mm_for_euclid_dist")
            differs = (raw["scores"][:, label].T - score[:, None]).abs() + distance  # [detections, raw]
            assert len(box) > 20 and (differs.amin(1) < 1e-3).all()
        elif len(target["labels"]):
            target = {**target, "labels": torch.zeros_like(target["labels"])}
        divergence.update(raw, target)
    assert divergence.compute()["per_gt_count"] > 0


def test_raw_predictions_errors():
    with pytest.raises(ValueError, match=r"model.eval\(\)"):
        raw_predictions(retinanet(), batch()[0])
    with pytest.raises(TypeError, match="got Linear"):
        raw_predictions(torch.nn.Linear(1, 1).eval(), batch()[0])
