"""A model that starts from the weights of a detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from .. import distributed
from ..config.settings import ModelConfig
from ..models.dense_detector import DenseDetector
from .files import WeightFile, read_weights
from .mmdetection import from_mmdetection, is_mmdetection
from .own import from_run
from .source import Source, counted
from .table import transfer_table
from .torchvision import from_torchvision, is_torchvision
from .transfer import Transfer, plan


def check_init(path: str | None) -> None:
    """FileNotFoundError if there is nothing to start from; for the beginning of a program, before data are read."""
    if path is not None and not Path(path).exists():
        raise FileNotFoundError(f"model.init: no file or run {path}")


def read_source(path: Path) -> tuple[Path, Source]:
    """The detector of a file or of a run's folder; recognized by the names of its tensors, not by the file's.

    Raises:
        FileNotFoundError: no such file. ValueError: unreadable, or no detector whose names are known.
    """
    if path.is_dir():
        return from_run(path)
    file = read_weights(path)
    if file.own:
        return from_run(path)
    names = list(file.tensors)
    if is_torchvision(names):
        return path, from_torchvision(file)
    if is_mmdetection(names):
        return path, from_mmdetection(file)
    raise ValueError(_unknown(file))


def weights_from_init(
    config: ModelConfig, model: DenseDetector, categories: Sequence[str]
) -> tuple[dict[str, Tensor], str]:
    """What a new model takes from ``config.init``, by name, and the table for the user; the model is not changed.

    Rank 0 reads the file; collective over all ranks.

    Args:
        config: of the model.
        categories: the model's classes by column.

    Raises:
        FileNotFoundError: no such file. ValueError: the file cannot be read, or its detector has another backbone.
    """
    found = None
    with distributed.together():
        if distributed.is_main():
            transfer, table = plan_from(Path(config.init), model, config, categories)
            found = transfer.tensors, table
    return distributed.broadcast(found)


def plan_from(path: Path, model: DenseDetector, config: ModelConfig, categories: Sequence[str]) -> tuple[Transfer, str]:
    """The transfer from a file to a new model, and its table; arguments and errors as for :func:`weights_from_init`."""
    path, source = read_source(path)
    try:
        found = plan(source, model, config, None if config.class_agnostic else categories)
    except ValueError as error:
        raise ValueError(f"{path} looks like {source.kind}, and cannot be started from: {error}") from error
    return found, transfer_table(path, source, found)


def _unknown(file: WeightFile) -> str:
    names = list(file.tensors)
    shown = f"{file.path} holds {len(names)} tensors, but no detector that is known here"
    if "fc.weight" in names and "conv1.weight" in names:
        return f"{shown}: it looks like a classifier; --set model.weights={file.path} starts the backbone from it"
    begin = ", ".join(f"{name}.* ({count})" for name, count in list(counted(names).items())[:4])
    return f"{shown}: {begin}"
