"""Paths among the settings."""

from __future__ import annotations

import os

from .overrides import override
from .settings import Config

PATHS = (
    "model.weights",
    "model.init",
    "data.data",
    "data.train_images",
    "data.train_annotations",
    "data.val_images",
    "data.val_annotations",
    "run.out",
)


def with_absolute_paths(config: Config) -> Config:
    """``config`` as a run saves it: a relative path would mean another file from another working directory."""
    for name in PATHS:
        section, _, key = name.partition(".")
        path = getattr(getattr(config, section), key)
        if path is not None and (name, path) != ("model.weights", "imagenet"):
            config = override(config, name, os.path.abspath(path))
    return config
