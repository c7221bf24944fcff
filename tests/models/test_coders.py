import math

import pytest
import torch
from golden import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_ext.detectors.models.anchors import AnchorGenerator, fcos_points
from mlc_ext.detectors.models.coders import MIN_GT_SIZE, DeltaXYWHCoder, LTRBCoder, clip_boxes
from mlc_ext.detectors.models.heads import flatten_level

LEVELS = range(5)


def random_boxes(n, generator, size=300.0, dtype=torch.float64):
    corner = torch.rand(n, 2, generator=generator, dtype=dtype) * size
    return torch.cat((corner, corner + torch.rand(n, 2, generator=generator, dtype=dtype) * size + 1), dim=1)


def test_ltrb_by_hand():
    coder = LTRBCoder()
    point, box = torch.tensor([[10.0, 20.0]]), torch.tensor([[4.0, 25.0, 30.0, 50.0]])
    assert coder.encode(point, box).tolist() == [[6, -5, 20, 30]]
    assert coder.decode(point, torch.tensor([[6.0, -5.0, 20.0, 30.0]])).tolist() == box.tolist()
    assert clip_boxes(coder.decode(point, torch.full((1, 4), 30.0)), (45, 32)).tolist() == [[0, 0, 32, 45]]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(0, 20))
def test_round_trips(seed, n):
    g = torch.Generator().manual_seed(seed)
    boxes, points = random_boxes(n, g), torch.rand(n, 2, generator=g, dtype=torch.float64) * 400
    coder = LTRBCoder()
    torch.testing.assert_close(coder.decode(points, coder.encode(points, boxes)), boxes)
    # Priors within a factor of 8: growth beyond 62.5 is clamped.
    jitter = torch.rand(n, 4, generator=g, dtype=torch.float64) * 0.3
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    priors = boxes + jitter * size * torch.tensor([-1, -1, 1, 1])
    for coder in (
        DeltaXYWHCoder(),
        DeltaXYWHCoder((0.1, 0, -0.2, 0.3), (0.1, 0.2, 0.3, 2)),
        DeltaXYWHCoder(mmdet1=True),
    ):
        torch.testing.assert_close(coder.decode(priors, coder.encode(priors, boxes)), boxes)


@pytest.mark.parametrize("mmdet1", [False, True])
def test_deltas_against_the_definition(mmdet1):
    """Scalar arithmetic per box: centers, sizes (+1 in MMDetection 1.1), means and stds."""
    g = torch.Generator().manual_seed(0)
    priors, boxes = random_boxes(20, g), random_boxes(20, g)
    means, stds = (0.05, -0.05, 0.1, 0.0), (0.1, 0.1, 0.2, 0.2)
    got = DeltaXYWHCoder(means, stds, mmdet1=mmdet1).encode(priors, boxes)
    one = 1 if mmdet1 else 0
    for p, b, row in zip(priors.tolist(), boxes.tolist(), got.tolist(), strict=True):
        pw, ph, bw, bh = (z[i + 2] - z[i] + one for z in (p, b) for i in (0, 1))
        deltas = (
            ((b[0] + b[2]) / 2 - (p[0] + p[2]) / 2) / pw,
            ((b[1] + b[3]) / 2 - (p[1] + p[3]) / 2) / ph,
            math.log(bw / pw),
            math.log(bh / ph),
        )
        assert row == pytest.approx([(d - m) / s for d, m, s in zip(deltas, means, stds, strict=True)])


def test_decode_clamps_growth():
    prior = torch.tensor([[10.0, 10.0, 12.0, 12.0]])
    deltas = torch.tensor([[0.0, 0.0, 50.0, -50.0]])
    x1, y1, x2, y2 = DeltaXYWHCoder().decode(prior, deltas)[0].tolist()
    assert x2 - x1 == pytest.approx(2 * 62.5) and y2 - y1 == pytest.approx(2 / 62.5, rel=1e-4)


def test_degenerate_gt_has_a_finite_target():
    prior, line = torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([[4.0, 0.0, 4.0, 8.0]])
    deltas = DeltaXYWHCoder().encode(prior, line)
    assert deltas.isfinite().all() and deltas[0, 2].item() == pytest.approx(math.log(MIN_GT_SIZE / 8))


def test_broadcasting_and_empty():
    g = torch.Generator().manual_seed(1)
    priors, deltas = random_boxes(6, g), torch.randn(3, 6, 4, generator=g, dtype=torch.float64)
    coder = DeltaXYWHCoder()
    decoded = coder.decode(priors, deltas)
    for i in range(3):
        assert torch.equal(decoded[i], coder.decode(priors, deltas[i]))
    points = priors[:, :2]
    assert torch.equal(
        LTRBCoder().encode(points[:, None], priors[None])[2, 4], LTRBCoder().encode(points[2], priors[4])
    )
    assert coder.decode(priors[:0], deltas[0, :0]).shape == coder.encode(priors[:0], priors[:0]).shape == (0, 4)


def test_gradients():
    g = torch.Generator().manual_seed(2)
    priors = random_boxes(4, g)
    deltas = torch.randn(4, 4, generator=g, dtype=torch.float64, requires_grad=True)
    coder = DeltaXYWHCoder((0, 0, 0.1, 0), (0.5, 1, 1, 0.2))
    assert torch.autograd.gradcheck(lambda d: coder.decode(priors, d), deltas)
    assert torch.autograd.gradcheck(lambda d: LTRBCoder().decode(priors[:, :2], d), deltas)
    boxes = random_boxes(4, g).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: coder.encode(priors, b), boxes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_predictions_decode_in_the_priors_precision(dtype):
    g = torch.Generator().manual_seed(3)
    priors = random_boxes(10, g, dtype=torch.float32) + 3000
    deltas = (torch.randn(10, 4, generator=g) * 0.3).to(dtype)
    assert torch.equal(DeltaXYWHCoder().decode(priors, deltas), DeltaXYWHCoder().decode(priors, deltas.float()))
    ltrb = deltas.abs() * 100
    assert torch.equal(LTRBCoder().decode(priors[:, :2], ltrb), LTRBCoder().decode(priors[:, :2], ltrb.float()))


def detections(golden, image):
    return [golden[f"det_{key}_{image}"] for key in ("boxes", "scores", "labels")]


def assert_each_detection_is_decoded(golden, decoded, scores):
    """Every recorded detection is one of ``decoded`` ``[2, HWA, 4]``, with its score ``[2, HWA, C]``."""
    for image in range(2):
        for box, score, label in zip(*detections(golden, image), strict=True):
            same_score = (scores[image, :, label] - score).abs() < 1e-5
            distance = (decoded[image] - box).abs().amax(dim=1)
            assert (same_score & (distance < 2e-3)).any(), (box, score, label)


@pytest.mark.parametrize("head", ["retinanet", "rpn"])
def test_golden_detections_are_ours_decoded(head):
    """Anchor order, the heads' flattening, the coder and the clipping together."""
    generator = getattr(AnchorGenerator, head)()
    for golden in load_golden(head):
        priors = torch.cat(generator([golden[f"cls_{i}"].shape[-2:] for i in LEVELS]))
        cls, reg = (
            torch.cat([flatten_level(golden[f"{key}_{i}"], generator.num_anchors) for i in LEVELS], dim=1)
            for key in ("cls", "reg")
        )
        decoded = clip_boxes(DeltaXYWHCoder().decode(priors, reg), golden["image_size"].tolist())
        assert_each_detection_is_decoded(golden, decoded, cls.sigmoid())


def test_golden_fcos_detections_and_targets():
    for golden in load_golden("fcos"):
        points = fcos_points([golden[f"cls_{i}"].shape[-2:] for i in LEVELS], [8, 16, 32, 64, 128])
        cls, reg, ctr = (
            torch.cat([flatten_level(golden[f"{key}_{i}"], 1) for i in LEVELS], dim=1) for key in ("cls", "reg", "ctr")
        )
        decoded = clip_boxes(LTRBCoder().decode(torch.cat(points), reg), golden["image_size"].tolist())
        assert_each_detection_is_decoded(golden, decoded, cls.sigmoid() * ctr.sigmoid())
        matched = 0
        for i, level in enumerate(points):
            labels, targets = golden[f"labels_{i}"].view(2, -1), golden[f"box_targets_{i}"].view(2, -1, 4)
            for image in range(2):
                positive = labels[image] < golden["num_classes"]
                ours = LTRBCoder().encode(level[positive][:, None], golden[f"gt_boxes_{image}"][None])
                theirs = targets[image][positive]
                if len(theirs):
                    assert ((ours - theirs[:, None]).abs().amax(dim=2).amin(dim=1) < 1e-4).all()
                    matched += len(theirs)
        assert matched > 0


def test_traces_without_a_graph_break():
    g = torch.Generator().manual_seed(4)
    priors, deltas = random_boxes(5, g), torch.randn(5, 4, generator=g, dtype=torch.float64)
    coder = DeltaXYWHCoder()
    compiled = torch.compile(coder.decode, fullgraph=True, backend="eager")
    assert torch.equal(compiled(priors, deltas), coder.decode(priors, deltas))


def test_errors():
    boxes = torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"LTRBCoder.encode: points must be \[..., 2\], got \(2, 4\)"):
        LTRBCoder().encode(boxes, boxes)
    with pytest.raises(TypeError, match="boxes must be floating point, got torch.int64"):
        DeltaXYWHCoder().encode(boxes, boxes.long())
    with pytest.raises(ValueError, match=r"deltas must be \[..., 4\], got \(2, 3\)"):
        DeltaXYWHCoder().decode(boxes, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="4 positive stds"):
        DeltaXYWHCoder(stds=(1, 1, 0, 1))
    with pytest.raises(ValueError, match="wh_ratio_clip must be in .0, 1., got 16"):
        DeltaXYWHCoder(wh_ratio_clip=16)
