import pytest
import torch
import torch.nn.functional as F

from mlc_ext.detectors.models.fpn import FPN, pyramid

CHANNELS = (4, 6, 8)


def maps(sizes=((17, 23), (9, 12), (5, 6)), channels=CHANNELS, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(2, c, *s, generator=g) for c, s in zip(channels, sizes, strict=True)]


def nearest(x, size):
    """Nearest-neighbor resizing by its index rule: floor(i * old / new)."""
    rows = torch.arange(size[0]) * x.shape[2] // size[0]
    columns = torch.arange(size[1]) * x.shape[3] // size[1]
    return x[:, :, rows][:, :, :, columns]


def reference(fpn, features):
    """The levels from the weights alone, written as the definition reads."""
    w = fpn.state_dict()

    def conv(x, name, **options):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **options)

    p5 = conv(features[2], "lateral_convs.2")
    p4 = conv(features[1], "lateral_convs.1") + nearest(p5, features[1].shape[2:])
    p3 = conv(features[0], "lateral_convs.0") + nearest(p4, features[0].shape[2:])
    levels = [conv(p, f"fpn_convs.{i}", padding=1) for i, p in enumerate((p3, p4, p5))]
    if fpn.extra in ("on_c5", "on_p5"):
        p6 = conv(features[2] if fpn.extra == "on_c5" else levels[2], "extra_convs.0", stride=2, padding=1)
        p7 = conv(p6.clamp(min=0) if fpn.relu_before_extra else p6, "extra_convs.1", stride=2, padding=1)
        levels += [p6, p7]
    elif fpn.extra == "pool":
        levels.append(levels[2][:, :, ::2, ::2])
    return levels


@pytest.mark.parametrize(
    "extra, num_extra, relu",
    [
        ("on_c5", 2, False),
        ("on_c5", 2, True),
        ("on_p5", 2, True),
        ("on_p5", 2, False),
        ("pool", 1, False),
        (None, 0, False),
    ],
)
@pytest.mark.parametrize("sizes", [((16, 24), (8, 12), (4, 6)), ((17, 23), (9, 12), (5, 6)), ((3, 1), (2, 1), (1, 1))])
def test_levels_by_definition(extra, num_extra, relu, sizes):
    torch.manual_seed(0)
    fpn = FPN(CHANNELS, 16, extra=extra, num_extra=num_extra, relu_before_extra=relu)
    for conv in fpn.modules():  # zero biases would hide a lost one
        if isinstance(conv, torch.nn.Conv2d):
            torch.nn.init.normal_(conv.bias)
    features = maps(sizes)
    levels, expected = fpn(features), reference(fpn, features)
    assert len(levels) == len(expected) == fpn.num_levels == 3 + num_extra
    for got, want in zip(levels, expected, strict=True):
        torch.testing.assert_close(got, want)
    for finer, coarser in zip(levels[2:], levels[3:], strict=False):
        assert coarser.shape[2:] == ((finer.shape[2] + 1) // 2, (finer.shape[3] + 1) // 2)


def test_inputs_are_left_alone():
    features = maps()
    copies = [f.clone() for f in features]
    FPN(CHANNELS, 16, extra="on_c5", relu_before_extra=True)(features)
    assert all(torch.equal(f, c) for f, c in zip(features, copies, strict=True))


def test_gradients_reach_every_parameter_and_map():
    features = [f.requires_grad_() for f in maps()]
    fpn = FPN(CHANNELS, 16, extra="on_p5", relu_before_extra=True)
    sum(level.square().sum() for level in fpn(features)).backward()
    for tensor in (*features, *fpn.parameters()):
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0


def test_xavier_uniform_and_zero_bias():
    torch.manual_seed(0)
    fpn = FPN((256, 512), 256, num_extra=1)
    for conv in (m for m in fpn.modules() if isinstance(m, torch.nn.Conv2d)):
        area = conv.kernel_size[0] * conv.kernel_size[1]
        bound = (6 / ((conv.in_channels + conv.out_channels) * area)) ** 0.5
        assert conv.weight.abs().max() <= bound
        assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
        assert not conv.bias.any()


def test_level_strides():
    assert FPN(CHANNELS, 16).level_strides([8, 16, 32]) == [8, 16, 32, 64, 128]
    assert FPN((4, *CHANNELS), 16, extra="pool", num_extra=1).level_strides([4, 8, 16, 32]) == [
        4,
        8,
        16,
        32,
        64,
    ]
    with pytest.raises(ValueError, match=r"expected 3 strides, got \[8\]"):
        FPN(CHANNELS, 16).level_strides([8])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"extra": "on_c4"}, "extra must be one of .* got 'on_c4'"),
        ({"extra": None}, "extra=None does not go with num_extra=2"),
        ({"extra": "pool", "num_extra": 0}, "extra='pool' does not go with num_extra=0"),
        (
            {"extra": "on_p5", "num_extra": 1, "relu_before_extra": True},
            "no effect with extra='on_p5', num_extra=1",
        ),
        ({"extra": "pool", "relu_before_extra": True}, "no effect with extra='pool'"),
    ],
)
def test_options_that_contradict(options, message):
    with pytest.raises(ValueError, match=message):
        FPN(CHANNELS, 16, **options)


def test_wrong_number_of_maps():
    with pytest.raises(ValueError, match="in_channels is empty"):
        FPN([])
    with pytest.raises(ValueError, match="expected 3 feature maps, got 2"):
        FPN(CHANNELS, 16)(maps()[:2])


@pytest.mark.parametrize(
    ("extra_levels", "extra", "relu"),
    [("c5", "on_c5", False), ("c5_relu", "on_c5", True), ("p5", "on_p5", False), ("p5_relu", "on_p5", True)],
)
def test_extra_levels_by_name(extra_levels, extra, relu):
    fpn = pyramid([8, 16, 32], 4, extra_levels, 5)
    assert (fpn.extra, fpn.relu_before_extra, fpn.num_levels) == (extra, relu, 5)
