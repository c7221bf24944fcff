"""Checkpoints of untrained detectors."""

from __future__ import annotations

from pathlib import Path

import torch

from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.presets import preset
from mlc_ext.detectors.models.build import build_model
from mlc_ext.detectors.runs.checkpoint import save_checkpoint

SETTINGS = {
    "model.backbone": "resnet18",
    "model.weights": None,
    "model.norm": "bn",
    "model.fpn_channels": 64,
    "model.num_convs": 1,
    "data.short_side": "120,140",
    "data.long_side": 200,
    "data.generated_images": 8,
    "data.generated_size": 96,
}


def write_checkpoint(folder: Path, name: str) -> Path:
    """An untrained detector whose scores spread around a half."""
    config = preset(name)
    for key, value in SETTINGS.items():
        if not (key == "model.num_convs" and "rpn" in name):
            config = override(config, key, value)
    torch.manual_seed(0)
    model = build_model(config, 3)
    torch.nn.init.normal_(model.head.cls_logits.weight, std=0.3)
    torch.nn.init.zeros_(model.head.cls_logits.bias)
    path = folder / f"{name}.pt"
    save_checkpoint(path, {"model": model.state_dict(), "config": config.to_dict(), "num_classes": 3, "iteration": 1,
                           "categories": ["cat", "dog", "emu"], "category_ids": [2, 5, 11]})  # fmt: skip
    return path
