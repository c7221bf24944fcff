"""The split of a data set that is evaluated on, by name."""

from __future__ import annotations

import re

from ..config.overrides import override
from ..config.settings import Config
from .paths import find_split


def with_split(config: Config, name: str | None) -> Config:
    """``config`` with the split ``name`` as validation set: "train" and "val" are those of the settings, any other is
    looked for in the folder ``data.data``. None: ``config`` itself.

    With ``data.val_fraction`` "train" are the images that are trained on, and "val" those held out.

    Raises ValueError or FileNotFoundError if there is no such split.
    """
    if name is None:
        return config
    if name in ("train", "val"):
        return override(config, "data.val_is_train", name == "train")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"--split must be the name of a split, such as val, train or test, got {name!r}")
    if config.data.data is None:
        raise ValueError(f"no split {name!r}: the data are not a folder with splits (data.data is not set)")
    images, annotations = find_split(config.data.data, name)
    config = override(override(config, "data.val_is_train", False), "data.val_fraction", None)
    return override(override(config, "data.val_images", str(images)), "data.val_annotations", str(annotations))
