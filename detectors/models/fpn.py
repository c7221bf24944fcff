"""Feature pyramid network (Lin et al., 2017) with the extra levels of RetinaNet, FCOS and RPN."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

EXTRAS = ("on_c5", "on_p5", "pool", None)


class FPN(nn.Module):
    """1x1 laterals, a nearest-neighbor top-down path, 3x3 outputs, and ``num_extra`` coarser levels.

    Args:
        in_channels: channels of the backbone's maps, the finest first (``backbone.out_channels``).
        out_channels: channels of every level.
        extra: where the extra levels come from. "on_c5": 3x3 stride-2 convolutions, the first one on the
            backbone's last map (RetinaNet); "on_p5": the same on the last output (FCOS); "pool": every second
            value of the last output (RPN's P6); None: no extra levels.
        num_extra: how many extra levels.
        relu_before_extra: a ReLU before the second and later extra convolutions (FCOS), never before the
            first.

    Forward: maps ``[N, C_i, H_i, W_i]`` to ``num_levels`` maps ``[N, out_channels, ., .]``; sizes may be odd,
    each extra level has ``ceil(H / 2) x ceil(W / 2)``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        *,
        extra: str | None = "on_p5",
        num_extra: int = 2,
        relu_before_extra: bool = False,
    ) -> None:
        super().__init__()
        if not in_channels:
            raise ValueError("FPN: in_channels is empty")
        if extra not in EXTRAS:
            raise ValueError(f"FPN: extra must be one of {EXTRAS}, got {extra!r}")
        if num_extra < 0 or (num_extra == 0) != (extra is None):
            raise ValueError(f"FPN: extra={extra!r} does not go with num_extra={num_extra}")
        if relu_before_extra and (extra not in ("on_c5", "on_p5") or num_extra < 2):
            raise ValueError(
                f"FPN: relu_before_extra has no effect with extra={extra!r}, num_extra={num_extra}:"
                " it acts from the second extra convolution on"
            )
        self.extra, self.num_extra, self.relu_before_extra = extra, num_extra, relu_before_extra
        self.out_channels, self.num_levels = out_channels, len(in_channels) + num_extra

        self.lateral_convs = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in in_channels)
        self.fpn_convs = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels)
        self.extra_convs = nn.ModuleList()
        if extra in ("on_c5", "on_p5"):
            channels = in_channels[-1] if extra == "on_c5" else out_channels
            for _ in range(num_extra):
                self.extra_convs.append(nn.Conv2d(channels, out_channels, 3, stride=2, padding=1))
                channels = out_channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def level_strides(self, strides: Sequence[int]) -> list[int]:
        """The strides of the levels, given those of the backbone's maps."""
        if len(strides) != len(self.lateral_convs):
            raise ValueError(f"FPN: expected {len(self.lateral_convs)} strides, got {list(strides)}")
        return [*strides, *(strides[-1] << i for i in range(1, self.num_extra + 1))]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        if len(features) != len(self.lateral_convs):
            raise ValueError(f"FPN: expected {len(self.lateral_convs)} feature maps, got {len(features)}")
        merged = [lateral(x) for lateral, x in zip(self.lateral_convs, features, strict=True)]
        for i in range(len(merged) - 1, 0, -1):
            # To the finer map's exact size: doubling would miss it on odd sizes.
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=merged[i - 1].shape[-2:], mode="nearest")
        levels = [conv(x) for conv, x in zip(self.fpn_convs, merged, strict=True)]

        if self.extra == "pool":
            for _ in range(self.num_extra):
                levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        source = features[-1] if self.extra == "on_c5" else levels[-1]
        for i, conv in enumerate(self.extra_convs):
            source = conv(F.relu(source) if self.relu_before_extra and i > 0 else source)
            levels.append(source)
        return levels


def pyramid(in_channels: Sequence[int], out_channels: int, extra_levels: str, num_levels: int) -> FPN:
    """An FPN of ``num_levels`` levels whose coarsest come from ``extra_levels`` (``model.extra_levels``): "c5" or "p5",
    with "_relu" as :class:`FPN`'s ``relu_before_extra``."""
    extra, _, relu = extra_levels.partition("_")
    return FPN(
        in_channels,
        out_channels,
        extra=f"on_{extra}",
        num_extra=num_levels - len(in_channels),
        relu_before_extra=relu == "relu",
    )
