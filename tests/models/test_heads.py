import math

import pytest
import torch
import torch.nn.functional as F

from mlc_ext.detectors.models.heads import MAX_DISTANCE, FCOSHead, RetinaNetHead, RPNHead, flatten_level

SIZES = ((6, 7), (3, 4), (2, 2), (1, 1), (1, 1))
LOCATIONS = sum(h * w for h, w in SIZES)


def pyramid(channels=32, n=2, sizes=SIZES, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, channels, *s, generator=g) for s in sizes]


def perturbed(head):
    """The head with parameters in which a forgotten or swapped one shows."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=g) / max(1, parameter[0].numel()) ** 0.5
    return head


def tower(x, head, name, norm):
    w, step = head.state_dict(), 3 if norm else 2
    for i in range(4):
        x = F.conv2d(x, w[f"{name}.{step * i}.weight"], w.get(f"{name}.{step * i}.bias"), padding=1)
        if norm:
            x = F.group_norm(x, 32, w[f"{name}.{3 * i + 1}.weight"], w[f"{name}.{3 * i + 1}.bias"], eps=1e-5)
        x = x.clamp(min=0)
    return x


def predict(x, head, key, padding=1):
    w = head.state_dict()
    return F.conv2d(x, w[f"{key}.weight"], w[f"{key}.bias"], padding=padding)


def rows(x, anchors):
    """``[N, A * K, H, W]`` to ``[N, HWA, K]`` by index arithmetic."""
    n, channels, height, width = x.shape
    k = channels // anchors
    out = x.new_empty(n, height * width * anchors, k)
    for y in range(height):
        for column in range(width):
            for a in range(anchors):
                out[:, (y * width + column) * anchors + a] = x[:, a * k : (a + 1) * k, y, column]
    return out


def check(outputs, expected):
    assert outputs.keys() == expected.keys()
    for key, levels in expected.items():
        torch.testing.assert_close(outputs[key], torch.cat(levels, dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("anchors, k", [(1, 5), (9, 1), (3, 4)])
def test_flattening_order(anchors, k):
    x = torch.randn(2, anchors * k, 4, 3)
    assert torch.equal(flatten_level(x, anchors), rows(x, anchors))
    x = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(flatten_level(x, anchors), rows(x, anchors))


@pytest.mark.parametrize("norm", ["gn", "gn_bias", None])
@pytest.mark.parametrize("centerness_on", ["cls", "reg"])
@pytest.mark.parametrize("norm_on_bbox", [False, True])
def test_fcos_by_definition(norm, centerness_on, norm_on_bbox):
    options = {"norm": norm, "centerness_on": centerness_on, "norm_on_bbox": norm_on_bbox, "iou": True}
    head = perturbed(FCOSHead(32, 3, **options))
    expected = {key: [] for key in ("cls_logits", "bbox_regression", "bbox_ctrness", "iou_logits")}
    for i, x in enumerate(pyramid()):
        cls, reg = tower(x, head, "cls_tower", norm), tower(x, head, "reg_tower", norm)
        box = head.scales[i] * predict(reg, head, "bbox_regression")
        box = box.clamp(min=0) * 8 * 2**i if norm_on_bbox else box.exp()
        expected["cls_logits"].append(rows(predict(cls, head, "cls_logits"), 1))
        expected["bbox_regression"].append(rows(box, 1))
        expected["bbox_ctrness"].append(rows(predict({"cls": cls, "reg": reg}[centerness_on], head, "bbox_ctrness"), 1))
        expected["iou_logits"].append(rows(predict(reg, head, "iou_logits"), 1))
    outputs = head(pyramid())
    check(outputs, expected)
    assert outputs["cls_logits"].shape == (2, LOCATIONS, 3)


@pytest.mark.parametrize(("norm", "channels"), [(None, 8), ("gn", 32), ("gn_bias", 32)])
def test_retinanet_by_definition(norm, channels):
    head = perturbed(RetinaNetHead(channels, 9, 4, norm=norm, iou=True))
    assert ("cls_tower.0.bias" in head.state_dict()) == (norm != "gn")
    expected = {key: [] for key in ("cls_logits", "bbox_regression", "iou_logits")}
    for x in pyramid(channels):
        cls, reg = tower(x, head, "cls_tower", norm), tower(x, head, "reg_tower", norm)
        for key in expected:
            expected[key].append(rows(predict(cls if key == "cls_logits" else reg, head, key), 9))
    outputs = head(pyramid(channels))
    check(outputs, expected)
    assert [outputs[k].shape for k in expected] == [(2, LOCATIONS * 9, c) for c in (4, 4, 1)]


def test_rpn_by_definition():
    head = perturbed(RPNHead(8, 3, iou=True))
    w = head.state_dict()
    expected = {key: [] for key in ("cls_logits", "bbox_regression", "iou_logits")}
    for x in pyramid(8):
        shared = F.conv2d(x, w["cls_tower.0.weight"], w["cls_tower.0.bias"], padding=1).clamp(min=0)
        for key in expected:
            expected[key].append(rows(predict(shared, head, key, padding=0), 3))
    outputs = head(pyramid(8))
    check(outputs, expected)
    assert [outputs[k].shape for k in expected] == [(2, LOCATIONS * 3, c) for c in (1, 4, 1)]


def test_switches_decide_the_outputs():
    assert set(FCOSHead(32, 3, centerness=False)(pyramid())) == {"cls_logits", "bbox_regression"}
    assert set(RetinaNetHead(32, 1, 3)(pyramid())) == {"cls_logits", "bbox_regression"}
    assert set(RPNHead(32, 1)(pyramid())) == {"cls_logits", "bbox_regression"}


def parameter_count(head):
    return sum(p.numel() for p in head.parameters())


def test_parameter_counts():
    """Sums over the layers of BASELINES, at 256 channels and 80 classes."""
    conv = 256 * 256 * 9
    gn_tower, plain_tower = 4 * (conv + 2 * 256), 4 * (conv + 256)
    assert parameter_count(FCOSHead(256, 80)) == 2 * gn_tower + (80 + 4 + 1) * (256 * 9 + 1) + 5
    assert parameter_count(FCOSHead(256, 80, iou=True, centerness=False)) == parameter_count(FCOSHead(256, 80))
    assert parameter_count(RetinaNetHead(256, 9, 80)) == 2 * plain_tower + 9 * (80 + 4) * (256 * 9 + 1)
    assert parameter_count(RPNHead(256, 3, iou=True)) == conv + 256 + 3 * (1 + 4 + 1) * 257


def test_initial_values():
    torch.manual_seed(0)
    for head, prior in (
        (FCOSHead(64, 3, iou=True), 0.01),
        (RetinaNetHead(64, 9, 3, iou=True), 0.01),
        (RPNHead(64, 3), 0.5),
    ):
        for name, module in head.named_modules():
            if isinstance(module, torch.nn.Conv2d):
                n = module.weight.numel()
                assert module.weight.std().item() == pytest.approx(0.01, rel=4 / math.sqrt(2 * n)), name
                if name != "cls_logits":
                    assert module.bias is None or not module.bias.any()
        outputs = head(pyramid(64))
        assert outputs["cls_logits"].sigmoid().mean().item() == pytest.approx(prior, rel=0.1)
    boxes = FCOSHead(64, 3)(pyramid(64))["bbox_regression"]
    assert boxes.mean().item() == pytest.approx(1, rel=0.1)  # exp(0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_boxes_stay_finite_and_float(dtype):
    head = FCOSHead(32, 3, centerness=False)
    torch.nn.init.constant_(head.bbox_regression.bias, 30)  # exp(30) overflows a half
    boxes = head.to(dtype)([x.to(dtype) for x in pyramid()])["bbox_regression"]
    assert boxes.dtype == torch.float32
    assert boxes.max().item() == pytest.approx(MAX_DISTANCE, rel=1e-5) and boxes.half().isfinite().all()


def test_autocast_boxes_agree_with_full_precision():
    head = perturbed(FCOSHead(32, 3))
    full = head(pyramid())["bbox_regression"]
    with torch.autocast("cpu", torch.bfloat16):
        half = head(pyramid())["bbox_regression"]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.02)


def test_clamp_leaves_every_useful_distance_exact():
    head = FCOSHead(32, 3, strides=(8,))
    x = torch.linspace(-20, 11, 1000)[None, None, None].expand(1, 4, 1, 1000)
    assert torch.equal(head._finish_boxes(x, 0), x.exp())


@pytest.mark.parametrize("norm_on_bbox", [False, True])
def test_gradients_reach_every_parameter(norm_on_bbox):
    for head in (
        FCOSHead(32, 3, iou=True, norm_on_bbox=norm_on_bbox),
        RetinaNetHead(32, 2, 3, iou=True),
        RPNHead(32, 2, iou=True),
    ):
        perturbed(head)
        sum(v.square().sum() for v in head(pyramid()).values()).backward()
        for name, parameter in head.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_no_images_and_no_graph_break():
    head = FCOSHead(32, 3, iou=True)
    assert {k: v.shape for k, v in head(pyramid(n=0)).items()}["bbox_regression"] == (0, LOCATIONS, 4)
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    for key, value in head(pyramid()).items():
        torch.testing.assert_close(compiled(pyramid())[key], value)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: FCOSHead(48, 3), "multiple of 32, got 48"),
        (lambda: FCOSHead(32, 0), "FCOSHead: num_classes must be at least 1, got 0"),
        (lambda: FCOSHead(32, 3, norm="bn"), "norm must be 'gn', 'gn_bias' or None, got 'bn'"),
        (lambda: RetinaNetHead(48, 9, 3, norm="gn"), "RetinaNetHead: 'gn' needs .* multiple of 32, got 48"),
        (lambda: FCOSHead(32, 3, centerness_on="box"), "centerness_on must be 'cls' or 'reg', got 'box'"),
        (lambda: FCOSHead(32, 3, prior_prob=1.0), r"prior_prob must be in \(0, 1\), got 1.0"),
        (lambda: FCOSHead(32, 3, strides=()), "num_levels must be at least 1, got 0"),
        (lambda: FCOSHead(32, 3)(pyramid()[:3]), "has 5 strides but got 3 levels"),
        (lambda: RetinaNetHead(32, 0, 3), "RetinaNetHead: num_anchors must be at least 1, got 0"),
        (lambda: RPNHead(0, 3), "RPNHead: in_channels must be at least 1, got 0"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("channels", [32, 64])
def test_one_image_with_levels_of_one_cell(channels):
    """Levels of one cell with as many channels as groups: alone an image gets what it gets in a batch."""
    head = perturbed(FCOSHead(channels, 3, num_convs=2, iou=True))
    levels = pyramid(channels)
    alone, both = head([level[:1] for level in levels]), head(levels)
    for key, value in alone.items():
        torch.testing.assert_close(value, both[key][:1])
    sum(value.sum() for value in alone.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())
