"""Matcher and batched_nms in the place of torchvision's."""

import copy
import pickle

import pytest
import torch
import torchvision
from small_detectors import faster_rcnn, losses_of, retinanet
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher
from torchvision.ops import batched_nms as torchvision_batched_nms
from torchvision.ops import box_iou

from mlc_ext.integrations.torchvision import BoxPair, Matcher, apply_mlc, batched_nms, set_epoch, use_matcher


def random_boxes(count, generator, size=100.0, side=60.0):
    corner = torch.rand(count, 2, generator=generator) * size
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * side], dim=1)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("high, low", [(0.7, 0.3), (0.5, 0.4), (0.5, 0.5)])
def test_matches_are_torchvisions(high, low, forced):
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 7, 40):
        gts, priors = random_boxes(count, generator), random_boxes(500, generator)
        priors[:count] = gts  # IoU 1, and equal boxes
        expected = TorchvisionMatcher(high, low, forced)(box_iou(gts, priors))
        assert torch.equal(Matcher(high, low, forced)(BoxPair(gts, priors)), expected)
    assert set(expected.sign().tolist()) >= {-1, 1}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("forced", [False, True])
def test_anchors_in_half_precision_and_gts_in_float32(forced, dtype):
    """As under autocast: the gts are not rounded to the anchors' precision."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        gts, priors = random_boxes(9, generator), random_boxes(300, generator).to(dtype)
        expected = TorchvisionMatcher(0.5, 0.4, forced)(box_iou(gts, priors))
        assert torch.equal(Matcher(0.5, 0.4, forced)(BoxPair(gts, priors)), expected)


def test_thresholds_are_torchvisions():
    gts = torch.tensor([[0.0, 0, 8, 8]])
    priors = torch.tensor([[0.0, 0, 8, 4], [0, 0, 8, 2], [0, 0, 8, 3], [0, 0, 2, 2]])  # IoU 1/2, 1/4, 3/8, 1/16
    assert Matcher(0.5, 0.25)(BoxPair(gts, priors)).tolist() == [0, -2, -2, -1]
    assert TorchvisionMatcher(0.5, 0.25)(box_iou(gts, priors)).tolist() == [0, -2, -2, -1]


def test_a_gt_that_overlaps_no_prior_forces_nothing():
    gts = torch.tensor([[0.0, 0, 8, 8], [500, 500, 600, 600]])
    priors = torch.tensor([[0.0, 0, 8, 8], [100, 100, 108, 108]])
    assert TorchvisionMatcher(0.7, 0.3, True)(box_iou(gts, priors)).tolist() == [0, 0]
    assert Matcher(0.7, 0.3, True)(BoxPair(gts, priors)).tolist() == [0, -1]


def test_matcher_errors():
    matcher, boxes = Matcher(0.7, 0.3), torch.tensor([[0.0, 0, 8, 8]])
    with pytest.raises(TypeError, match="a BoxPair .* is needed, got Tensor"):
        matcher(box_iou(boxes, boxes))
    with pytest.raises(ValueError, match="No ground-truth boxes"):
        matcher(BoxPair(boxes[:0], boxes))
    with pytest.raises(ValueError, match="No proposal boxes"):
        matcher(BoxPair(boxes, boxes[:0]))


@pytest.mark.parametrize("build", [retinanet, faster_rcnn])
@pytest.mark.parametrize("order", ["matcher", "matcher, mlc", "mlc, matcher"])
def test_use_matcher(build, order):
    torch.manual_seed(0)
    expected_of = build()
    model = copy.deepcopy(expected_of)
    for step in order.split(", "):
        if step == "matcher":
            assert use_matcher(model) is model
        else:
            apply_mlc(model)
            apply_mlc(expected_of)
            expected_of.load_state_dict(model.state_dict())
    for epoch in (0, 12):
        if "mlc" in order:
            set_epoch(model, epoch)
            set_epoch(expected_of, epoch)
        torch.testing.assert_close(losses_of(model), losses_of(expected_of), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(losses_of(pickle.loads(pickle.dumps(model))), losses_of(model))


def test_use_matcher_errors():
    with pytest.raises(TypeError, match="got Linear"):
        use_matcher(torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match=r"must be torchvision's Matcher, got mlc_ext\.integrations"):
        use_matcher(use_matcher(retinanet()))


@pytest.mark.parametrize("count", [0, 1, 50, 2000])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
def test_nms_is_torchvisions(count, dtype):
    generator = torch.Generator().manual_seed(count)
    boxes = random_boxes(count, generator)
    scores = torch.rand(count, generator=generator)
    idxs = torch.randint(0, 5, (count,), generator=generator).to(dtype)
    for threshold in (0.0, 0.3, 0.5, 1.0):
        expected = torchvision_batched_nms(boxes, scores, idxs, threshold)
        assert torch.equal(batched_nms(boxes, scores, idxs, threshold), expected)
        doubles = batched_nms(boxes.double(), scores.double(), idxs, threshold)
        assert torch.equal(doubles, torchvision_batched_nms(boxes.double(), scores.double(), idxs, threshold))
        halves = boxes.half(), scores.half()  # torchvision computes their IoUs in half precision; here in float32
        kept = batched_nms(*halves, idxs, threshold)
        assert torch.equal(kept, batched_nms(*(x.float() for x in halves), idxs, threshold))


def test_a_score_of_minus_infinity_is_not_kept():
    boxes = torch.tensor([[0.0, 0, 1, 1], [5, 5, 6, 6]])
    scores, idxs = torch.tensor([-torch.inf, 0.5]), torch.zeros(2, dtype=torch.int64)
    assert batched_nms(boxes, scores, idxs, 0.5).tolist() == [1]
    assert torchvision_batched_nms(boxes, scores, idxs, 0.5).tolist() == [1, 0]


def test_nms_does_not_shift_coordinates():
    """torchvision adds category x (largest coordinate + 1), here 4,001,000, where float32 has steps of 0.25."""
    boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 0.4], [3990, 3990, 4000, 4000]])  # IoU 0.4
    scores, idxs = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1000, 1000, 1000])
    assert batched_nms(boxes, scores, idxs, 0.45).tolist() == [0, 1, 2]
    assert torchvision_batched_nms(boxes, scores, idxs, 0.45).tolist() == [0, 2]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_nms_scripted_and_compiled():
    generator = torch.Generator().manual_seed(1)
    boxes, scores = random_boxes(100, generator), torch.rand(100, generator=generator)
    idxs = torch.arange(100) % 3
    expected = batched_nms(boxes, scores, idxs, 0.4)
    assert torch.equal(torch.jit.script(batched_nms)(boxes, scores, idxs, 0.4), expected)
    compiled = torch.compile(batched_nms, backend="eager", fullgraph=True)
    assert torch.equal(compiled(boxes, scores, idxs, 0.4), expected)


def test_nms_of_a_detector(monkeypatch):
    torch.manual_seed(0)
    model = retinanet(score_thresh=0.005, topk_candidates=300).eval()
    images = [torch.rand(3, 100, 120)]
    calls = []

    def counted(*args):
        calls.append(args)
        return batched_nms(*args)

    with torch.no_grad():
        expected = model(images)[0]
        monkeypatch.setattr(torchvision.ops.boxes, "batched_nms", counted)
        found = model(images)[0]
    assert len(calls) == 1 and len(found["scores"]) > 20
    torch.testing.assert_close(found["scores"], expected["scores"])
