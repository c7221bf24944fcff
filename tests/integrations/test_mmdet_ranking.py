"""Detections and checkpoints of the heads in MMDetection."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.runner import load_checkpoint
from small_mmdet import TEST, batch, build, flat_outputs, losses_of, twins

KINDS = ("FCOSHead", "RetinaHead", "RPNHead")
every_kind = pytest.mark.parametrize("kind", KINDS)


def detections(head, data, **options):
    features, _, metas, _ = data
    head.eval()
    with torch.no_grad():
        return head.predict_by_feat(*head(features), batch_img_metas=metas, **options)


def assert_equal_detections(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(a.bboxes, b.bboxes)
        assert torch.equal(a.labels, b.labels)


@every_kind
def test_before_the_layer_is_trained_they_are_mmdetections(kind):
    plain, ours = twins(kind)
    found, expected = detections(ours, batch()), detections(plain, batch())
    assert sum(len(image) for image in expected) > 20
    assert_equal_detections(found, expected)


@pytest.mark.parametrize("kind", ["RetinaHead", "RPNHead"])
def test_one_step_of_rescoring_makes_the_layer_rank(kind):
    head = build(kind, mlc={"start_epoch": 8})
    data = batch(num_classes=1 if kind == "RPNHead" else 3)
    before = detections(head, data)
    head.train()
    losses_of(head, data)  # as the baseline
    assert head.conv_iou.trained == 0
    head.state.set_epoch(8)
    head.eval()  # a validation loss trains nothing
    losses_of(head, data)
    assert head.conv_iou.trained == 0
    head.train()
    losses_of(head, data)
    assert head.conv_iou.trained == 1
    after = detections(head, data)
    assert any(not torch.equal(a.scores, b.scores) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("kind", ["FCOSHead", "RetinaHead", "RPNHead"])
def test_scores_are_products(kind):
    """All candidates of an image without NMS and limits, against the outputs."""
    everything = TEST | {"nms_pre": 100_000, "score_thr": 0.0, "max_per_img": 100_000}
    head = build(kind, test_cfg=everything | {"nms": {"type": "nms", "iou_threshold": 1.0}})
    if kind != "FCOSHead":
        head.conv_iou.trained.fill_(1.0)
    data = batch(counts=(1,), num_classes=1)
    found = detections(head, data)[0]
    num_classes = 1 if kind == "RPNHead" else 3
    logits, _, quality = flat_outputs(head, data[0], (num_classes, 4, 1))
    products = (logits.sigmoid() * quality.sigmoid()).flatten().sort(descending=True)[0]
    torch.testing.assert_close(found.scores, products, rtol=1e-5, atol=1e-6)


def test_rpn_has_no_score_threshold():
    """MMDetection's ignores ``score_thr``; so does the ranking by the product, whatever the setting of the head."""
    head = build("RPNHead", topk_by_product=False)
    head.conv_iou.trained.fill_(1.0)
    expected = detections(head, batch())
    assert_equal_detections(detections(head, batch(), cfg=ConfigDict(head.test_cfg | {"score_thr": 0.9})), expected)


@every_kind
def test_predictions_by_position(kind):
    head, data = build(kind).eval(), batch()
    expected = detections(head, data, rescale=True)
    with torch.no_grad():
        found = head.predict_by_feat(*head(data[0]), data[2], head.test_cfg, True)
    assert_equal_detections(found, expected)


@pytest.mark.parametrize("kind", ["FCOSHead", "RetinaHead"])
def test_topk_by_product(kind):
    """The best of a level by score x quality, of those whose score is above the threshold."""
    few = TEST | {"nms_pre": 5, "score_thr": 0.3, "nms": {"type": "nms", "iou_threshold": 1.0}, "max_per_img": 1000}
    by_score, by_product = (build(kind, test_cfg=few, topk_by_product=flag) for flag in (False, True))
    for head in (by_score, by_product):
        if kind == "RetinaHead":
            head.conv_iou.trained.fill_(1.0)
    data = batch(counts=(1,))
    with torch.no_grad():
        outputs = by_product.eval()(data[0])
    expected = {False: [], True: []}
    for logits, _, quality in zip(*outputs, strict=True):
        factor = quality.repeat_interleave(logits.shape[1] // quality.shape[1], 1).sigmoid()
        score, factor = logits.sigmoid().flatten(), factor.flatten()
        keep = score > 0.3
        score, product = score[keep], (score * factor)[keep]
        expected[True] += product.sort(descending=True)[0][:5].tolist()
        expected[False] += product[score.sort(descending=True)[1][:5]].tolist()
    for head, flag in ((by_score, False), (by_product, True)):
        found = detections(head, data)[0].scores
        torch.testing.assert_close(found, torch.tensor(sorted(expected[flag], reverse=True)), rtol=1e-5, atol=1e-6)
    assert sum(expected[True]) > sum(expected[False])


def test_fcos_adds_no_key_and_the_others_three():
    for kind in KINDS:
        plain, ours = build(kind, plain=True), build(kind)
        added = ours.state_dict().keys() - plain.state_dict().keys()
        names = set() if kind == "FCOSHead" else {"conv_iou.weight", "conv_iou.bias", "conv_iou.trained"}
        assert added == names and not plain.state_dict().keys() - ours.state_dict().keys()
        assert build(kind, mlc={"iur": False}).state_dict().keys() == plain.state_dict().keys()


def test_a_checkpoint_of_the_plain_head_resets_the_layer(tmp_path):
    plain, ours = build("RetinaHead", plain=True), build("RetinaHead")
    ours.conv_iou.trained.fill_(1.0)
    torch.save({"state_dict": plain.state_dict()}, tmp_path / "plain.pth")
    load_checkpoint(ours, str(tmp_path / "plain.pth"), map_location="cpu", strict=True)
    assert ours.conv_iou.trained == 0 and ours.conv_iou.weight.std() < 0.02
    ours.conv_iou.trained.fill_(1.0)
    torch.save({"state_dict": ours.state_dict()}, tmp_path / "ours.pth")
    again = build("RetinaHead")
    load_checkpoint(again, str(tmp_path / "ours.pth"), map_location="cpu", strict=True)
    assert again.conv_iou.trained == 1
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))
