"""ResNets under torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import CAFFE_BGR, IMAGENET_RGB, STAGE_STRIDES, Backbone, check_out_indices


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
            self.downsample = nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))

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


class CaffeBottleneck(Bottleneck):
    """The bottleneck of the Caffe weights: the first 1x1 strides."""

    stride_in_1x1 = True


RESNETS = {  # blocks per stage, bottleneck
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
    ) -> None:
        super().__init__()
        if name not in RESNETS:
            raise ValueError(f"ResNet: name must be one of {sorted(RESNETS)}, got {name!r}")
        if style not in ("pytorch", "caffe"):
            raise ValueError(f"ResNet: style must be 'pytorch' or 'caffe', got {style!r}")
        self.out_indices = check_out_indices(out_indices)
        depths, bottleneck = RESNETS[name]
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
        self.normalization = CAFFE_BGR if style == "caffe" else IMAGENET_RGB
        for module in self.modules():  # batch norms start at gamma 1, beta 0 by themselves
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self._configure(norm, frozen_stages)

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
