"""The detector of a run, loaded from a checkpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from .. import distributed
from ..config.overrides import assign, differences, from_dict, override
from ..config.settings import Config
from ..data.build import CACHE, build_validation_set, verify
from ..data.coco.dataset import CocoDetection
from ..data.coco.trained import label_as_trained
from ..data.paths import has_validation_split
from ..data.splits import with_split
from ..models.build import build_model
from ..models.dense_detector import DenseDetector
from ..models.memory_layout import set_memory_layout
from .checkpoint import BEST, as_misfit, load_checkpoint, load_newest, runs_within, trained_weights

_LOG = logging.getLogger(__name__)


def load_trained(path: Path) -> tuple[Path, dict]:
    """The checkpoint ``path`` and its state; of a run's folder best.pt, or without one the newest usable checkpoint.

    Raises:
        FileNotFoundError: no such file, or a folder without checkpoints. ValueError: the file, or every checkpoint of
            the folder, is damaged or not of this project.
    """
    if not path.is_dir():
        return path, load_checkpoint(path)
    best = path / BEST
    if best.is_file():
        try:
            return best, load_checkpoint(best)
        except ValueError as error:
            _LOG.warning("%s; the newest checkpoint is used", error)
    found = load_newest(path, _LOG.warning)
    if found is None:
        raise FileNotFoundError(f"no checkpoint in {path}{runs_within(path)}")
    return found


def trained_config(state: dict) -> Config:
    """The configuration of a checkpoint, without ``model.weights`` and ``model.init``: the checkpoint contains the
    trained weights."""
    return override(override(from_dict(state["config"]), "model.weights", None), "model.init", None)


def trained_detector(path: Path, state: dict, config: Config, device: torch.device) -> DenseDetector:
    """The detector of a checkpoint's ``state`` on the device; ValueError, naming ``path``, if it does not fit."""
    model = build_model(config, state["num_classes"])
    with as_misfit(path):
        model.load_state_dict(trained_weights(state))
    model.set_epoch(_epochs(state) if "loader" in state else config.schedule.epochs)
    set_memory_layout(model.to(device), config.run)
    return model


def _epochs(state: dict) -> float:
    """Epochs that a checkpoint was trained, with the fraction of the last one."""
    loader = state["loader"]
    return state["iteration"] / math.ceil(loader["num_samples"] / loader["batch_size"])


def _check_settings(settings: Sequence[str], changed: Container[str], split: str | None) -> None:
    """ValueError if the split changes one of the ``settings``, KEY=VALUE texts."""
    for setting in settings:
        if setting.partition("=")[0] in changed:
            raise ValueError(f"--split {split} and --set {setting} choose different images: leave one out")


class Loaded(NamedTuple):
    """A run's detector, ready to be evaluated."""

    model: DenseDetector
    dataset: CocoDetection
    config: Config
    device: torch.device
    iteration: int
    """Of the checkpoint."""
    checkpoint: Path


def load_for_evaluation(
    path: Path,
    data: str | None = None,
    device: str = "auto",
    *,
    settings: Sequence[str] = (),
    split: str | None = None,
) -> Loaded:
    """The detector of a checkpoint, or of a run's folder (:func:`load_trained`), and its validation set; other
    arguments and errors as for :func:`~mlc_ext.detectors.evaluation.measure.evaluate_checkpoint`."""
    with distributed.together():
        path, state = load_trained(path)
        config = trained_config(state)
        if data is not None:
            config = override(config, "data.data", data)
            for name in ("train_images", "train_annotations", "val_images", "val_annotations"):
                config = override(config, f"data.{name}", None)  # those of the run would take precedence
            if has_validation_split(data):  # no part has to be held out
                config = override(config, "data.val_fraction", None)
            config = override(config, "data.limit_train", None)  # that of the run's own images
        if data is not None or split not in (None, "val"):
            config = override(config, "data.limit_val", None)  # it is meant for the run's own validation images
        wanted = assign(config, settings)
        config = with_split(wanted, split)
        _check_settings(settings, differences(wanted, config), split)
        target = distributed.pick_device(device)
        dataset = build_validation_set(config, CACHE)
        label_as_trained(dataset, state, path)
        model = trained_detector(path, state, config, target)
    verify(config, dataset)
    return Loaded(model, dataset, config, target, state["iteration"], path)
