"""Checkpoints of untrained detectors."""

from __future__ import annotations

from pathlib import Path

import torch
from small_runs import config_of

from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.settings import Config
from mlc_ext.detectors.models.build import build_model
from mlc_ext.detectors.runs.checkpoint import save_checkpoint


def configured(name: str, folder: Path, **settings) -> Config:
    changes = {"data__data": str(folder / "data"), "data__short_side": "120,140", "data__long_side": 200}
    return config_of(name, folder, model__norm="bn", **changes, **settings)


def write_checkpoint(folder: Path, name: str, **settings) -> Path:
    """An untrained detector whose scores spread around a half."""
    config = configured(name, folder, **settings)
    torch.manual_seed(0)
    model = build_model(override(config, "model.weights", None), 3)
    torch.nn.init.normal_(model.head.cls_logits.weight, std=0.3)
    torch.nn.init.zeros_(model.head.cls_logits.bias)
    path = folder / f"{name}.pt"
    save_checkpoint(path, {"model": model.state_dict(), "config": config.to_dict(), "num_classes": 3, "iteration": 1,
                           "categories": ["cat", "dog", "emu"], "category_ids": [2, 5, 11]})  # fmt: skip
    return path
