import sys
import types

import pytest
import torch
import torch.nn.functional as F

from mlc_ext.detectors.models.backbones.base import CAFFE_BGR, IMAGENET_RGB, Normalization, load_backbone_weights
from mlc_ext.detectors.models.backbones.build import build_backbone
from mlc_ext.detectors.models.backbones.resnet import ResNet, conv_norm

DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}
PARAMETERS = {"resnet18": 11_176_512, "resnet34": 21_284_672, "resnet50": 23_508_032, "resnet101": 42_500_160}


def expected_shapes(name):
    """torchvision's state dict without fc, from the architecture's rule."""
    deep = name in ("resnet50", "resnet101")
    shapes = {}

    def norm(key, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{key}.{part}"] = (channels,)
        shapes[f"{key}.num_batches_tracked"] = ()

    shapes["conv1.weight"] = (64, 3, 7, 7)
    norm("bn1", 64)
    before = 64
    for stage, depth in enumerate(DEPTHS[name], start=1):
        width = (64, 128, 256, 512)[stage - 1]
        after = width * 4 if deep else width
        for block in range(depth):
            key = f"layer{stage}.{block}"
            if deep:
                layers = [(width, before, 1), (width, width, 3), (after, width, 1)]
            else:
                layers = [(width, before, 3), (width, width, 3)]
            for i, (out_channels, in_channels, k) in enumerate(layers, start=1):
                shapes[f"{key}.conv{i}.weight"] = (out_channels, in_channels, k, k)
                norm(f"{key}.bn{i}", out_channels)
            if before != after or (stage > 1 and block == 0):
                shapes[f"{key}.downsample.0.weight"] = (after, before, 1, 1)
                norm(f"{key}.downsample.1", after)
            before = after
    return shapes


@pytest.mark.parametrize("name", DEPTHS)
@pytest.mark.parametrize("style", ["pytorch", "caffe"])
def test_keys_shapes_and_parameter_count(name, style):
    with torch.device("meta"):
        backbone = ResNet(name, style=style)
    assert {k: tuple(v.shape) for k, v in backbone.state_dict().items()} == expected_shapes(name)
    assert sum(p.numel() for p in backbone.parameters()) == PARAMETERS[name]
    last = [512, 1024, 2048] if name in ("resnet50", "resnet101") else [128, 256, 512]
    assert (backbone.out_channels, backbone.strides) == (last, [8, 16, 32])


def reference_forward(state, images, name, caffe):
    """C2 to C5 from the state dict alone, batch norms in eval mode."""

    def conv_norm(x, conv, norm, stride=1):
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, gamma, beta = (
            state[f"{norm}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * gamma + beta

    x = F.max_pool2d(conv_norm(images, "conv1", "bn1", 2).relu(), 3, 2, 1)
    features = []
    convs = 3 if name in ("resnet50", "resnet101") else 2
    striding = 1 if convs == 2 or caffe else 2
    for stage, depth in enumerate(DEPTHS[name], start=1):
        for block in range(depth):
            key, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = x
            for i in range(1, convs + 1):
                y = conv_norm(y, f"{key}.conv{i}", f"{key}.bn{i}", stride if i == striding else 1)
                y = y.relu() if i < convs else y
            if f"{key}.downsample.0.weight" in state:
                x = conv_norm(x, f"{key}.downsample.0", f"{key}.downsample.1", stride)
            x = (x + y).relu()
        features.append(x)
    return features


@pytest.mark.parametrize("name, style", [("resnet18", "pytorch"), ("resnet50", "pytorch"), ("resnet50", "caffe")])
@pytest.mark.parametrize("size", [(64, 96), (65, 39)])
def test_forward_by_definition(name, style, size):
    torch.manual_seed(0)
    backbone = build_backbone(name, style=style, out_indices=(0, 1, 2, 3)).eval()
    for key, value in backbone.state_dict().items():  # statistics that a forgotten norm would show in
        if key.endswith(("running_mean", "bias")):
            value.normal_(std=0.1)
        elif key.endswith("running_var"):
            value.uniform_(0.8, 1.5)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        features = backbone(images)
        expected = reference_forward(backbone.state_dict(), images, name, style == "caffe")
    for feature, want, stride in zip(features, expected, backbone.strides, strict=True):
        assert feature.shape[2:] == (-(-size[0] // stride), -(-size[1] // stride))
        torch.testing.assert_close(feature, want, rtol=1e-3, atol=1e-4 * want.abs().max().item())


def test_out_indices_choose_the_maps():
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", out_indices=(0, 3)).eval()
    assert (backbone.out_channels, backbone.strides) == ([64, 512], [4, 32])
    assert [f.shape for f in backbone(torch.randn(1, 3, 64, 64))] == [(1, 64, 16, 16), (1, 512, 2, 2)]


def stage_of(key):
    return int(key[5]) if key.startswith("layer") else 0


@pytest.mark.parametrize("norm", ["bn", "frozen_bn", "fixed"])
@pytest.mark.parametrize("frozen_stages", [0, 1, 2, 5])
def test_what_trains(norm, frozen_stages):
    """Gradients and running statistics after one step, also after eval() and train() again."""
    backbone = build_backbone("resnet18", norm=norm, frozen_stages=frozen_stages).eval().train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    images = torch.randn(2, 3, 64, 64, requires_grad=True)
    sum(f.square().mean() for f in backbone(images)).backward()
    for key, parameter in backbone.named_parameters():
        is_norm = "bn" in key or "downsample.1" in key
        trains = stage_of(key) >= frozen_stages and not (is_norm and norm == "fixed")
        assert (parameter.grad is not None) == parameter.requires_grad == trains, key
    for key, value in backbone.state_dict().items():
        if "running" in key or "num_batches" in key:
            changes = norm == "bn" and stage_of(key) >= frozen_stages
            assert torch.equal(value, before[key]) != changes, key


def test_initial_values():
    torch.manual_seed(0)
    backbone = ResNet("resnet50")
    for name, module in backbone.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all() and not module.bias.any(), name


@pytest.fixture
def weight_file(tmp_path):
    """A file as torchvision's, with its classifier."""
    torch.manual_seed(1)
    state = ResNet("resnet18").state_dict()
    state.update({"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)})
    path = tmp_path / "resnet18.pth"
    torch.save(state, path)
    return path


def rewrite(path, change):
    state = torch.load(path, weights_only=True)
    state = change(state) or state
    torch.save(state, path)


def test_loads_torchvisions_layout(weight_file):
    backbone = build_backbone("resnet18", weights=weight_file)
    state = torch.load(weight_file, weights_only=True)
    assert all(torch.equal(v, state[k]) for k, v in backbone.state_dict().items())
    assert (backbone.norm, backbone.frozen_stages) == ("frozen_bn", 2)  # the defaults with weights
    bare = build_backbone("resnet18")
    assert (bare.norm, bare.frozen_stages) == ("bn", 0)


def test_loads_a_nested_file_and_an_old_one(weight_file):
    def old(state):
        return {
            "meta": {"epoch": 3},
            "state_dict": {k: v for k, v in state.items() if "num_batches" not in k},
        }

    rewrite(weight_file, old)
    backbone = build_backbone("resnet18", weights=weight_file)
    assert torch.equal(backbone.conv1.weight, torch.load(weight_file)["state_dict"]["conv1.weight"])
    assert backbone.bn1.num_batches_tracked == 0


def test_differences_are_named_and_nothing_is_copied(weight_file):
    def change(state):
        del state["layer1.0.conv1.weight"]
        state["layer5.weight"] = torch.zeros(1)
        state["bn1.bias"] = torch.zeros(65)

    rewrite(weight_file, change)
    backbone = ResNet("resnet18")
    before = backbone.conv1.weight.clone()
    with pytest.raises(ValueError) as error:
        load_backbone_weights(backbone, weight_file)
    for part in (
        "1 missing: layer1.0.conv1.weight",
        "1 unexpected: layer5.weight",
        "bn1.bias (65,) for (64,)",
    ):
        assert part in str(error.value)
    assert torch.equal(backbone.conv1.weight, before)
    with pytest.raises(ValueError, match="does not fit ResNet"):
        build_backbone("resnet50", weights=weight_file)


def test_files_that_are_no_weights(tmp_path):
    backbone = ResNet("resnet18")
    with pytest.raises(FileNotFoundError, match="no such file: .*absent.pth"):
        load_backbone_weights(backbone, tmp_path / "absent.pth")
    for content in (
        b"",
        b"garbage",
        b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ",
        b"PK\x03\x04 truncated zip",
    ):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(ValueError, match="bad.pth is not a state dict"):
            load_backbone_weights(backbone, tmp_path / "bad.pth")
    torch.save(backbone, tmp_path / "module.pth")  # a pickled module could run code
    with pytest.raises(ValueError, match="module.pth is not a state dict"):
        load_backbone_weights(backbone, tmp_path / "module.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list.pth holds no state dict"):
        load_backbone_weights(backbone, tmp_path / "list.pth")


def test_normalization_by_definition():
    images = torch.rand(2, 3, 4, 5)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(IMAGENET_RGB(images), expected)
    pixels = (images * 255).round()
    bgr = torch.stack((pixels[:, 2] - 102.9801, pixels[:, 1] - 115.9465, pixels[:, 0] - 122.7717), dim=1)
    torch.testing.assert_close(CAFFE_BGR(pixels.byte()), bgr, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(CAFFE_BGR(pixels[0] / 255), bgr[0], rtol=1e-5, atol=1e-4)
    assert IMAGENET_RGB(images.half()).dtype == torch.float16
    assert build_backbone("resnet50", style="caffe").normalization is CAFFE_BGR
    assert build_backbone("resnet18").normalization is IMAGENET_RGB


def test_normalization_first_used_in_inference_mode_can_be_trained_on():
    normalization = Normalization((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    with torch.inference_mode():
        normalization(torch.rand(3, 2, 2))
    images = torch.rand(3, 2, 2, requires_grad=True)
    normalization(images).sum().backward()
    assert images.grad[:, 0, 0].tolist() == [1, 0.5, 0.25]


class FakeTimm(types.ModuleType):
    """The part of timm's interface that is used: features at strides 2 to 32, one stride twice."""

    def create_model(self, name, *, features_only, **options):
        assert features_only
        self.options = options

        class Body(torch.nn.Module):
            feature_info = types.SimpleNamespace(
                reduction=lambda: [2, 4, 8, 16, 16, 32], channels=lambda: [1, 2, 3, 4, 5, 6]
            )
            pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
            output_fmt = "NHWC" if name == "swin" else "NCHW"

            def __init__(self):
                super().__init__()
                self.bn = torch.nn.BatchNorm2d(3)

            def forward(self, x):
                x = self.bn(x)
                maps = [
                    x[:, :1, ::r, ::r].expand(-1, c, -1, -1)
                    for r, c in zip(self.feature_info.reduction(), self.feature_info.channels(), strict=True)
                ]
                return [m.permute(0, 2, 3, 1) for m in maps] if self.output_fmt == "NHWC" else maps

        return Body()


@pytest.mark.parametrize("name", ["cnn", "swin"])
def test_timm_interface(name, monkeypatch, tmp_path):
    fake = FakeTimm("timm")
    monkeypatch.setitem(sys.modules, "timm", fake)
    backbone = build_backbone(f"timm:{name}", out_indices=(0, 1, 2, 3))
    assert (backbone.out_channels, backbone.strides, fake.options) == ([2, 3, 5, 6], [4, 8, 16, 32], {})
    assert backbone.normalization == Normalization((0.5,) * 3, (0.25,) * 3)
    shapes = [f.shape for f in backbone(torch.rand(1, 3, 64, 32))]
    assert shapes == [(1, c, 64 // s, 32 // s) for c, s in zip((2, 3, 5, 6), (4, 8, 16, 32), strict=True)]
    build_backbone(f"timm:{name}", weights="imagenet")
    assert fake.options == {"pretrained": True}
    (tmp_path / "w.pth").touch()
    frozen = build_backbone(f"timm:{name}", weights=tmp_path / "w.pth").train()
    assert fake.options == {"pretrained": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "w.pth")}}
    assert frozen.norm == "frozen_bn" and not frozen.body.bn.training
    with pytest.raises(ValueError, match="frozen_stages must be 0 for timm models, got 2"):
        build_backbone(f"timm:{name}", frozen_stages=2)
    with pytest.raises(FileNotFoundError, match="absent"):
        build_backbone(f"timm:{name}", weights=tmp_path / "absent")


def test_timm_agrees_with_ours(tmp_path):
    timm = pytest.importorskip("timm", reason="the optional package timm is absent", exc_type=ImportError)
    network = timm.create_model("resnet50")
    torch.save(network.state_dict(), tmp_path / "w.pth")
    images = torch.rand(1, 3, 64, 64)
    ours = build_backbone("resnet50", weights=tmp_path / "w.pth").eval()
    theirs = build_backbone("timm:resnet50", weights=tmp_path / "w.pth").eval()
    for a, b in zip(ours(images), theirs(images), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"name": "resnet19"}, ValueError, "name must be one of resnet18, .* got 'resnet19'"),
        ({"name": "resnet18", "norm": "gn"}, ValueError, "norm must be one of .* got 'gn'"),
        ({"name": "resnet18", "style": "tf"}, ValueError, "style must be 'pytorch' or 'caffe', got 'tf'"),
        ({"name": "resnet18", "frozen_stages": 6}, ValueError, r"frozen_stages must be in 0..5, got 6"),
        (
            {"name": "resnet18", "out_indices": (2, 1)},
            ValueError,
            r"out_indices must increase .* got \(2, 1\)",
        ),
        ({"name": "resnet18", "out_indices": (1, 2)}, ValueError, r"end in 3, got \(1, 2\)"),
        ({"name": "resnet18", "weights": "imagenet"}, ValueError, "nothing is downloaded"),
        ({"name": "timm:x"}, ImportError, "'timm:x' needs the package timm"),
    ],
)
def test_errors(options, error, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(error, match=message):
        build_backbone(**options)


def test_normalization_errors():
    with pytest.raises(ValueError, match=r"\[..., 3, H, W\], got \(1, 4, 4\)"):
        IMAGENET_RGB(torch.rand(1, 4, 4))
    with pytest.raises(TypeError, match="got torch.int64"):
        IMAGENET_RGB(torch.zeros(3, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="order must be 'rgb' or 'bgr', got 'gbr'"):
        Normalization((0.0,) * 3, (1.0,) * 3, order="gbr")
    with pytest.raises(ValueError, match="3 positive stds"):
        Normalization((0.0,) * 3, (1.0, 0.0, 1.0))


def test_conv_norm_in_eval_mode_equals_the_two_layers():
    """Values and every gradient, the affine parameters' included."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(5, 7, 3, stride=2, padding=1, bias=False).double()
    norm = torch.nn.BatchNorm2d(7).double().eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        torch.nn.init.normal_(tensor)
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 5, 9, 8, dtype=torch.float64, requires_grad=True)
    wanted = norm(conv(x))
    inputs, direction = (x, conv.weight, norm.weight, norm.bias), torch.randn_like(wanted)
    expected = torch.autograd.grad(wanted, inputs, direction)
    folded = conv_norm(conv, norm, x)
    torch.testing.assert_close(folded, wanted)
    torch.testing.assert_close(torch.autograd.grad(folded, inputs, direction), expected)
    norm.train()
    trained = F.batch_norm(conv(x), None, None, norm.weight, norm.bias, True)
    torch.testing.assert_close(conv_norm(conv, norm, x), trained)
