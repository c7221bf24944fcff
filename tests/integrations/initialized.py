"""Detectors of this project that start from the file of another library's, and the comparison of detections."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from mlc_ext import MLCConfig
from mlc_ext.detectors.config.settings import Config, ModelConfig
from mlc_ext.detectors.initialization.initialize import plan_from
from mlc_ext.detectors.initialization.transfer import Transfer, setting_text
from mlc_ext.detectors.models.backbones.base import Normalization
from mlc_ext.detectors.models.build import build_model
from mlc_ext.detectors.models.dense_detector import DenseDetector

IMAGES = ((128, 256), (256, 128), (128, 128))
"""Multiples of 128: torchvision computes the stride of a level from the size of the padded image. Short sides are 128,
long sides at most 256."""


def random_statistics(model: torch.nn.Module) -> None:
    """Weights and statistics far from their start, with outputs of a trained detector's size."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(std=0.1)
            elif name.endswith("running_var"):
                tensor.uniform_(0.7, 1.3)
            elif tensor.dim() == 1 and name.endswith("weight"):
                tensor.uniform_(0.4, 0.8)
            elif tensor.dim() <= 1 and tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) * 0.05)
            elif tensor.dim() == 4 and "head." in name:
                box_layer = re.search(r"(bbox|conv|retina|rpn)_(reg|pred)\.weight", name)
                tensor.normal_(std=(0.3 if box_layer else 1.4) / tensor[0].numel() ** 0.5)


def in_documentation(settings: dict[str, object]) -> str:
    """Settings as docs/training.md lists them, without the detector's name."""
    return " ".join(f"{name}={setting_text(value)}" for name, value in settings.items() if name != "detector")


def images(seed: int = 0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.rand(3, h, w, generator=g) for h, w in IMAGES]


def started(
    path: Path, classes: list[str], normalization: Normalization | None = None, **settings
) -> tuple[DenseDetector, Transfer, str]:
    """A model of these settings that has started from the file, in evaluation; what it took; and the table.

    ``normalization`` is the model's, if not its own.
    """
    config = Config(model=ModelConfig(init=str(path), **settings), mlc=MLCConfig(ml=False, iur=False))
    torch.manual_seed(1)
    model = build_model(config, len(classes))
    if normalization is not None:
        model.backbone.normalization = normalization
    transfer, table = plan_from(path, model, config.model, classes)
    model.load_state_dict(transfer.tensors, strict=False)
    return model.eval(), transfer, table


def assert_same_detections(ours: list[dict], theirs: list[dict]) -> None:
    """The same scores to 1e-4, labels, and boxes to 5e-4 pixels, in any order of equal scores."""
    for a, b in zip(ours, theirs, strict=True):
        assert len(a["boxes"]) == len(b["boxes"]) > 20
        torch.testing.assert_close(a["scores"], b["scores"], atol=1e-4, rtol=0)
        columns = (("labels", 0.1), ("scores", 1e-4), ("boxes", 5e-4))
        rows = [torch.cat([x[key].view(len(x["boxes"]), -1) / unit for key, unit in columns], 1) for x in (a, b)]
        distances = torch.cdist(*rows, p=float("inf"))
        assert (distances.min(1).values < 1).all() and (distances.min(0).values < 1).all()
