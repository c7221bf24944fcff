"""Dense heads of FCOS, RetinaNet and RPN: the same convolutions slid over every level of the pyramid.

Forward: a list of feature maps ``[N, C, H, W]``, fine to coarse, to a dict of tensors over all levels at
once, laid out as torchvision's: location by location, anchor by anchor, ``HWA`` being the sum of H * W * A
over the levels:

- ``cls_logits`` ``[N, HWA, num_classes]`` (RPN: one column, the objectness);
- ``bbox_regression`` ``[N, HWA, 4]``: FCOS l, t, r, b in pixels, never half precision; else deltas;
- ``bbox_ctrness`` ``[N, HWA, 1]``, FCOS with centerness;
- ``iou_logits`` ``[N, HWA, 1]``, with ``iou``: the logit of the predicted IoU (MLC, Sec. 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Distances end here: the largest half-precision number, so that one stays finite under .half() too, and a
# product of two in float32. No image is that long, so no useful prediction changes.
MAX_DISTANCE = 65504.0

GN_GROUPS = 32

NORMS = ("gn", "gn_bias", None)


class GroupNorm(nn.GroupNorm):
    """torch's, also where a single image has one value per group: torch refuses that, though the same image in a batch
    of two gets the bias. It happens on a level of one cell (an image up to 128 pixels) with ``GN_GROUPS`` channels."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps, torch.backends.cudnn.enabled)


def _tower(channels: int, num_convs: int, norm: str | None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers.append(nn.Conv2d(channels, channels, 3, padding=1, bias=norm != "gn"))
        if norm is not None:
            layers.append(GroupNorm(GN_GROUPS, channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def flatten_level(x: Tensor, num_anchors: int) -> Tensor:
    """``[N, A * K, H, W]`` to ``[N, H * W * A, K]``, location by location, anchor by anchor."""
    n, channels, height, width = x.shape
    x = x.view(n, num_anchors, channels // num_anchors, height, width).permute(0, 3, 4, 1, 2)
    if torch.compiler.is_exporting():  # reshape would look at the strides, which differ for levels of one cell
        x = x.clone(memory_format=torch.contiguous_format)
    return x.reshape(n, height * width * num_anchors, channels // num_anchors)


class DenseHead(nn.Module):
    """The forward pass that the heads share. A subclass makes the towers, then adds one layer per output."""

    def __init__(self, num_anchors: int) -> None:
        super().__init__()
        self.num_anchors = num_anchors
        self._tower_of: dict[str, str] = {}  # the outputs, and which tower feeds each: "cls" or "reg"

    def _add_output(self, key: str, tower: str, in_channels: int, width: int, kernel_size: int = 3) -> None:
        """A layer, named as its output, of ``width`` values per anchor."""
        # Without PyTorch's own initialization, whose draws would give heads with and without a last layer (the IoU)
        # other weights everywhere: a comparison of both starts from the same ones.
        layer = nn.utils.skip_init(
            nn.Conv2d, in_channels, self.num_anchors * width, kernel_size, padding=kernel_size // 2
        )
        setattr(self, key, layer)
        self._tower_of[key] = tower

    def _reset_parameters(self, prior_prob: float = 0.5) -> None:
        if not 0 < prior_prob < 1:
            raise ValueError(f"{type(self).__name__}: prior_prob must be in (0, 1), got {prior_prob}")
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Every location starts at the score prior_prob (Lin et al., 2017, Sec. 3.3).
        nn.init.constant_(self.cls_logits.bias, math.log(prior_prob / (1 - prior_prob)))

    def _finish_boxes(self, x: Tensor, level: int) -> Tensor:
        """What turns the box layer's output of a level into ``bbox_regression``."""
        return x

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        outputs: dict[str, list[Tensor]] = {key: [] for key in self._tower_of}
        for level, x in enumerate(features):
            towers = {"cls": self.cls_tower(x)}
            towers["reg"] = towers["cls"] if self.reg_tower is None else self.reg_tower(x)
            for key, tower in self._tower_of.items():
                y = getattr(self, key)(towers[tower])
                if key == "bbox_regression":
                    y = self._finish_boxes(y, level)
                outputs[key].append(flatten_level(y, self.num_anchors))
        return {key: torch.cat(levels, dim=1) for key, levels in outputs.items()}


def _check_norm(name: str, norm: str | None, in_channels: int) -> None:
    if norm not in NORMS:
        raise ValueError(f"{name}: norm must be 'gn', 'gn_bias' or None, got {norm!r}")
    if norm is not None and in_channels % GN_GROUPS:
        raise ValueError(f"{name}: {norm!r} needs in_channels to be a multiple of 32, got {in_channels}")


def _check_counts(name: str, **counts: int) -> None:
    for key, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}: {key} must be at least 1, got {value}")


class FCOSHead(DenseHead):
    """FCOS (Tian et al., 2019): two towers; l, t, r, b = exp(scale_l * x) pixels, a learnt scale per level.

    Args:
        in_channels: channels of every level; with ``norm="gn"`` a multiple of 32.
        num_classes: real classes.
        num_convs: 3x3 convolutions in each tower.
        norm: "gn" (32 groups, the convolutions then have no bias), "gn_bias" (they have one) or None.
        centerness, iou: whether to predict centerness, and the IoU (on the localization tower).
        centerness_on: the tower that feeds centerness: "cls" (the paper) or "reg" (a later trick).
        prior_prob: the score every location starts at.
        norm_on_bbox: l, t, r, b = relu(scale_l * x) * stride instead of the exponential.
        strides: pixels per cell of each level; their number is the number of levels.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        num_convs: int = 4,
        norm: str | None = "gn",
        centerness: bool = True,
        iou: bool = False,
        centerness_on: str = "cls",
        prior_prob: float = 0.01,
        norm_on_bbox: bool = False,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
    ) -> None:
        super().__init__(num_anchors=1)
        _check_counts("FCOSHead", in_channels=in_channels, num_classes=num_classes, num_convs=num_convs)
        _check_counts("FCOSHead", num_levels=len(strides))
        _check_norm("FCOSHead", norm, in_channels)
        if centerness_on not in ("cls", "reg"):
            raise ValueError(f"FCOSHead: centerness_on must be 'cls' or 'reg', got {centerness_on!r}")
        self.strides, self.num_levels, self.norm_on_bbox = tuple(strides), len(strides), norm_on_bbox
        self.cls_tower = _tower(in_channels, num_convs, norm)
        self.reg_tower = _tower(in_channels, num_convs, norm)
        self._add_output("cls_logits", "cls", in_channels, num_classes)
        self._add_output("bbox_regression", "reg", in_channels, 4)
        if centerness:
            self._add_output("bbox_ctrness", centerness_on, in_channels, 1)
        if iou:
            self._add_output("iou_logits", "reg", in_channels, 1)
        self.scales = nn.Parameter(torch.ones(self.num_levels))
        self._reset_parameters(prior_prob)

    def _finish_boxes(self, x: Tensor, level: int) -> Tensor:
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()  # exp of a half overflows from x = 11.1, and bfloat16 has 3 digits
        x = x * self.scales[level].to(x.dtype)
        if self.norm_on_bbox:
            return x.relu() * self.strides[level]
        return x.clamp(max=math.log(MAX_DISTANCE)).exp()

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        if len(features) != self.num_levels:
            raise ValueError(f"FCOSHead: has {self.num_levels} strides but got {len(features)} levels")
        return super().forward(features)


class RetinaNetHead(DenseHead):
    """RetinaNet (Lin et al., 2017): two towers, by default without normalization, A anchors per location.

    Args:
        in_channels: channels of every level.
        num_anchors: anchors per location (A).
        num_classes: real classes.
        num_convs: 3x3 convolutions in each tower.
        norm: as of :class:`FCOSHead`.
        iou: whether to predict the IoU of each anchor's box (on the localization tower).
        prior_prob: the score every anchor starts at.
    """

    def __init__(
        self,
        in_channels: int,
        num_anchors: int,
        num_classes: int,
        *,
        num_convs: int = 4,
        norm: str | None = None,
        iou: bool = False,
        prior_prob: float = 0.01,
    ) -> None:
        super().__init__(num_anchors)
        _check_counts("RetinaNetHead", in_channels=in_channels, num_anchors=num_anchors)
        _check_counts("RetinaNetHead", num_classes=num_classes, num_convs=num_convs)
        _check_norm("RetinaNetHead", norm, in_channels)
        self.cls_tower = _tower(in_channels, num_convs, norm)
        self.reg_tower = _tower(in_channels, num_convs, norm)
        self._add_output("cls_logits", "cls", in_channels, num_classes)
        self._add_output("bbox_regression", "reg", in_channels, 4)
        if iou:
            self._add_output("iou_logits", "reg", in_channels, 1)
        self._reset_parameters(prior_prob)


class RPNHead(DenseHead):
    """Region proposal network (Ren et al., 2015): one shared 3x3 convolution, 1x1 outputs.

    ``cls_logits`` is ``[N, HWA, 1]``, the objectness, and starts at 0.

    Args:
        in_channels: channels of every level.
        num_anchors: anchors per location (A).
        iou: whether to predict the IoU of each anchor's box.
    """

    def __init__(self, in_channels: int, num_anchors: int, *, iou: bool = False) -> None:
        super().__init__(num_anchors)
        _check_counts("RPNHead", in_channels=in_channels, num_anchors=num_anchors)
        self.cls_tower = _tower(in_channels, 1, None)
        self.reg_tower = None  # the one tower serves both tasks
        self._add_output("cls_logits", "cls", in_channels, 1, kernel_size=1)
        self._add_output("bbox_regression", "reg", in_channels, 4, kernel_size=1)
        if iou:
            self._add_output("iou_logits", "reg", in_channels, 1, kernel_size=1)
        self._reset_parameters()
