import math

import pytest
import torch
from golden import load_golden

from mlc_ext.detectors.models.anchors import AnchorGenerator, fcos_points

NUM_LEVELS = 5


def test_points_by_hand():
    points = fcos_points([(2, 3), (1, 2)], [8, 16])
    assert points[0].tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    assert points[1].tolist() == [[8, 8], [24, 8]]


def test_golden_points():
    for golden in load_golden("fcos"):
        sizes = [golden[f"cls_{i}"].shape[-2:] for i in range(NUM_LEVELS)]
        for i, points in enumerate(fcos_points(sizes, [8, 16, 32, 64, 128])):
            assert torch.equal(points, golden[f"points_{i}"])


@pytest.mark.parametrize("head", ["retinanet", "rpn"])
def test_golden_anchors(head):
    generator = getattr(AnchorGenerator, head)()
    for golden in load_golden(head):
        sizes = [golden[f"cls_{i}"].shape[-2:] for i in range(NUM_LEVELS)]
        for i, anchors in enumerate(generator(sizes)):
            assert torch.equal(anchors, golden[f"anchors_{i}"])


@pytest.mark.parametrize(
    "generator, per_location, base",
    [(AnchorGenerator.retinanet(), 9, 4), (AnchorGenerator.rpn(), 3, 8)],
)
def test_shapes_follow_the_definition(generator, per_location, base):
    """Area (scale * stride)^2, height / width = ratio, centered on the cell's corner, ratio-major."""
    assert generator.num_anchors == per_location
    scales = [base * 2 ** (i / 3) for i in range(per_location // 3)]
    for stride, anchors in zip(generator.strides, generator([(3, 4)] * 5), strict=True):
        assert anchors.shape == (3 * 4 * per_location, 4)
        for row in range(3):
            for column in range(4):
                for a, (ratio, scale) in enumerate((r, s) for r in (0.5, 1.0, 2.0) for s in scales):
                    x1, y1, x2, y2 = anchors[(row * 4 + column) * per_location + a].tolist()
                    assert (x2 - x1) * (y2 - y1) == pytest.approx((scale * stride) ** 2, rel=1e-4)
                    assert (y2 - y1) / (x2 - x1) == pytest.approx(ratio, rel=1e-4)
                    assert (x1 + x2) / 2 == pytest.approx(column * stride, abs=1e-3)
                    assert (y1 + y2) / 2 == pytest.approx(row * stride, abs=1e-3)


def test_torchvisions_anchors():
    """Sizes cut to whole pixels (40.3, 50.8), then rounded corners."""
    generator = AnchorGenerator.retinanet(torchvision=True)
    square = generator.base_anchors(0)[3:6]
    assert square.tolist() == [[-half, -half, half, half] for half in (16, 20, 25)]
    wide = generator.base_anchors(0)[0]
    assert wide.tolist() == [-23, -11, 23, 11]  # 45.25 x 22.63
    assert torch.equal(generator.base_anchors(1)[4], torch.tensor([-40.0, -40.0, 40.0, 40.0]))  # 80.6
    rpn = AnchorGenerator.rpn(torchvision=True)
    assert torch.equal(rpn.base_anchors(4)[1], torch.tensor([-256.0, -256.0, 256.0, 256.0]))
    exact = torch.stack([AnchorGenerator.rpn().base_anchors(i) for i in range(NUM_LEVELS)])
    whole = torch.stack([rpn.base_anchors(i) for i in range(NUM_LEVELS)])
    assert torch.equal(whole, exact.round())


def test_the_example_of_mmdetections_documentation():
    """One anchor of 9 pixels at stride 16, in 3.x and as its LegacyAnchorGenerator (v1) has it."""
    corners = [[0, 0], [16, 0], [0, 16], [16, 16]]
    anchors = AnchorGenerator((16,), (9 / 16,), (1.0,))([(2, 2)])[0]
    assert anchors.tolist() == [[x - 4.5, y - 4.5, x + 4.5, y + 4.5] for x, y in corners]
    # The documentation centers 1.1's anchors on 0.5 * (9 - 1) there, base size 9; here the base is the stride.
    legacy = AnchorGenerator((9,), (1.0,), (1.0,), mmdet1=True)([(1, 1)])[0]
    assert legacy.tolist() == [[0, 0, 8, 8]]


def test_v1_by_formula():
    generator = AnchorGenerator.retinanet(mmdet1=True)
    for level, stride in enumerate(generator.strides):
        expected = []
        for ratio in (0.5, 1.0, 2.0):
            for octave in range(3):
                size = 4 * stride * 2 ** (octave / 3)
                w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
                c = 0.5 * (stride - 1)
                box = [c - 0.5 * (w - 1), c - 0.5 * (h - 1), c + 0.5 * (w - 1), c + 0.5 * (h - 1)]
                expected.append([float(round(v)) for v in box])
        assert generator.base_anchors(level).tolist() == expected


def test_cache_shares_by_size_device_and_dtype():
    generator = AnchorGenerator.rpn()
    sizes = [(4, 4)] * 5
    first = generator(sizes)
    assert all(a is b for a, b in zip(first, AnchorGenerator.rpn()(sizes), strict=True))
    assert generator(sizes, dtype=torch.float64)[0].dtype == torch.float64
    assert generator([(4, 5)] * 5)[0].shape == (60, 4)
    assert AnchorGenerator.rpn(mmdet1=True)(sizes)[0].tolist() != first[0].tolist()
    assert fcos_points([(2, 2)], [8])[0] is fcos_points([[2, 2]], [8], device="cpu")[0]


def test_priors_first_made_in_inference_mode_can_be_trained_on():
    with torch.inference_mode():
        points = fcos_points([(7, 11)], [8])[0]
    scale = torch.ones((), requires_grad=True)
    (points * scale).sum().backward()  # saves points for backward
    assert scale.grad == points.sum()


def test_half_precision_rounds_once():
    points = fcos_points([(1, 400)], [8], dtype=torch.float16)[0]
    exact = fcos_points([(1, 400)], [8])[0]
    assert points.dtype == torch.float16 and torch.equal(points, exact.half())


def test_empty_level():
    assert fcos_points([(0, 3)], [8])[0].shape == (0, 2)
    assert AnchorGenerator.rpn((8,))([(0, 3)])[0].shape == (0, 4)


def test_traces_without_a_graph_break():
    def priors(x):
        sizes = [x.shape[-2:]]
        return fcos_points(sizes, [8], device=x.device)[0], AnchorGenerator.rpn((8,))(sizes)[0]

    x = torch.zeros(1, 1, 3, 5)
    compiled = torch.compile(priors, fullgraph=True, backend="eager", dynamic=True)
    for got, expected in zip(compiled(x), priors(x), strict=True):
        assert torch.equal(got, expected)


def test_errors():
    with pytest.raises(ValueError, match="2 feature sizes for 1 strides"):
        fcos_points([(1, 1), (1, 1)], [8])
    with pytest.raises(ValueError, match="1 feature sizes for 5 strides"):
        AnchorGenerator.rpn()([(1, 1)])
    with pytest.raises(TypeError, match="int64"):
        fcos_points([(1, 1)], [8], dtype=torch.int64)
    with pytest.raises(ValueError, match=r"ratios must be positive.*\(1, -2\)"):
        AnchorGenerator((8,), (8,), (1, -2))
    with pytest.raises(ValueError, match="strides must be positive and not empty"):
        AnchorGenerator((), (8,))
