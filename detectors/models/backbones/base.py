"""What all backbones share: image normalization, stages, freezing, and the loading of weight files.

Every backbone maps normalized images ``[N, 3, H, W]`` to a list of feature maps of growing stride and carries
``out_channels``, ``strides`` and ``normalization`` (what its weights expect of an image).
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...tensor_cache import cached_tensors

NORMS = ("bn", "frozen_bn", "fixed")

STAGE_STRIDES = (4, 8, 16, 32)  # C2, C3, C4, C5


@dataclass(frozen=True)
class Normalization:
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
            raise ValueError(f"Normalization: order must be 'rgb' or 'bgr', got {self.order!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"Normalization: needs 3 means and 3 positive stds, got {self.mean} and {self.std}")

    def __call__(self, images: Tensor) -> Tensor:
        """Normalize RGB ``images`` ``[..., 3, H, W]``: float in 0..1, or uint8 in 0..255 (gives float32)."""
        if images.dim() < 3 or images.shape[-3] != 3:
            raise ValueError(f"Normalization: images must be [..., 3, H, W], got {tuple(images.shape)}")
        if images.dtype == torch.uint8:
            images = images.float() / 255
        elif not images.is_floating_point():
            raise TypeError(f"Normalization: images must be floating point or uint8, got {images.dtype}")
        if self.order == "bgr":
            images = images.flip(-3)
        factor, offset = _factor_and_offset(self, device=images.device, dtype=images.dtype)
        return images * factor - offset


@cached_tensors(maxsize=16)
def _factor_and_offset(n: Normalization, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(x * scale - mean) / std as x * factor - offset, each ``[3, 1, 1]``."""
    mean = torch.tensor(n.mean, dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor(n.std, dtype=torch.float64).view(3, 1, 1)
    return (n.scale / std).to(device, dtype), (mean / std).to(device, dtype)


IMAGENET_RGB = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

CAFFE_BGR = Normalization(mean=(102.9801, 115.9465, 122.7717), std=(1.0, 1.0, 1.0), order="bgr", scale=255.0)


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
    normalization: Normalization

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
        raise ValueError(f"backbone: out_indices must increase within 0..3 (C2..C5) and end in 3, got {indices}")
    return indices


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
        raise ValueError(f"load_backbone_weights: {path} is not a state dict written by torch.save: {error}") from error
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
