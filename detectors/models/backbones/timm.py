"""Any convolutional timm model as a backbone, where the optional package ``timm`` is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from .base import STAGE_STRIDES, Backbone, Normalization, check_out_indices, existing_file


class TimmBackbone(Backbone):
    """A timm model with ``features_only=True``. Its stages cannot be frozen one by one.

    ``weights``: None, "imagenet" (timm's own, which it fetches) or the path of a weight file for that model.
    """

    def __init__(
        self, name: str, *, weights: str | Path | None, norm: str, out_indices: Sequence[int] = (1, 2, 3)
    ) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise ImportError(f"build_backbone: 'timm:{name}' needs the package timm (pip install timm)") from error
        options: dict = {} if weights is None else {"pretrained": True}
        if weights not in (None, "imagenet"):
            options["pretrained_cfg_overlay"] = {"file": str(existing_file(weights))}
        self.body = timm.create_model(name, features_only=True, **options)
        reductions = list(self.body.feature_info.reduction())
        channels = list(self.body.feature_info.channels())
        self.strides = [STAGE_STRIDES[i] for i in check_out_indices(out_indices)]
        if absent := [s for s in self.strides if s not in reductions]:
            raise ValueError(f"build_backbone: timm:{name} has no features of stride {absent}, only {reductions}")
        # Several features may share a stride: the deepest one is the stage's output.
        self.selected = [len(reductions) - 1 - reductions[::-1].index(s) for s in self.strides]
        self.out_channels = [channels[i] for i in self.selected]
        # The Swin family gives [N, H, W, C].
        self.channels_last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"
        config = self.body.pretrained_cfg
        self.normalization = Normalization(tuple(config["mean"]), tuple(config["std"]))
        self._configure(norm, 0)

    def stages(self) -> list[list[nn.Module]]:
        return []

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.body(images)
        features = [features[i] for i in self.selected]
        if self.channels_last:
            features = [f.permute(0, 3, 1, 2) for f in features]
        return features
