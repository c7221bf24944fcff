"""This project's checkpoints."""

from __future__ import annotations

from pathlib import Path

from ..config.overrides import from_dict
from ..config.settings import ModelConfig
from ..models.build import extra_levels, tower_norm
from ..runs.checkpoint import trained_weights
from ..runs.load import load_trained
from .source import Source

_STRUCTURE = ("backbone", "style", "fpn_channels", "num_convs", "norm_on_bbox", "centerness_on", "torchvision_anchors",
              "mmdet1")  # fmt: skip


def head_of(model: ModelConfig) -> str:
    """The kind of head: "fcos" with or without centerness, "retinanet" or "rpn"."""
    return model.detector.rstrip("-")


def structure(model: ModelConfig) -> dict[str, object]:
    """The settings that decide what the weights mean."""
    values = {name: getattr(model, name) for name in _STRUCTURE}
    return values | {"extra_levels": extra_levels(model), "tower_norm": tower_norm(model)}


def from_run(path: Path) -> tuple[Path, Source]:
    """The detector of a checkpoint or of a run's folder (best.pt, else the newest usable one); its averages if it has
    them.

    Returns the checkpoint's path too. Raises as :func:`~mlc_ext.detectors.runs.load.load_trained`.
    """
    path, state = load_trained(path)
    model = from_dict(state["config"]).model
    names = state.get("categories") or []
    source = Source(
        f"this project's {model.detector}",
        head_of(model),
        trained_weights(state),
        settings=structure(model),
        classes=tuple(names) if len(names) == state["num_classes"] else None,
    )
    return path, source
