"""Evaluations that are kept beside their checkpoint, and used again instead of computing them again."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch

import mlc_ext
from mlc_ext import Divergence, PredictionWriter

from .. import distributed
from ..config.paths import with_absolute_paths
from ..data.coco.dataset import CocoDetection
from ..runs.checkpoint import VERSIONS
from ..runs.files import check_writable, replacing, writing
from ..runs.load import Loaded
from ..runs.tensor_file import save_tensors
from .measure import Measured, make_evaluator, measure_loaded, rank_batch

FOLDER = "evaluations"
"""Of a run, for the files of this module."""

_FORMAT = "mlc_ext evaluation 1"
_PACKAGES = ("numpy", "pillow", "timm", "efficientnet-lite-pytorch")
"""That decode images or have the code of a backbone."""
_LOG = logging.getLogger(__name__)


class Once(NamedTuple):
    """What :func:`measure_once` returns."""

    measured: Measured
    file: Path | None
    """Where it is kept; None if it could not be written, and on ranks other than 0."""
    reused: bool


def measure_once(
    loaded: Loaded,
    batch_size: int | None = None,
    *,
    progress: bool = True,
    again: bool = False,
    writer: PredictionWriter | None = None,
) -> Once:
    """:func:`measure_loaded` with correlations, or its kept outcome.

    An outcome is used again if the weights, the trained epochs, the data set (objects, and every image file's size and
    times), all settings, the batch size, the device, the versions of the packages and the source files of this one are
    the same. A new one is kept in the folder FOLDER beside the checkpoint, where it replaces that of another
    checkpoint; what cannot be written is a warning. All ranks call it.

    Args:
        again: compute in any case.
        writer: takes the predictions before NMS, which are not kept: compute in any case.
    """
    batch_size = rank_batch(loaded.config) if batch_size is None else batch_size
    path, state = None, None
    with distributed.together():
        if distributed.is_main():
            circumstances = _circumstances(loaded, batch_size)
            fingerprint = digest([circumstances, loaded.model.epoch, weights_digest(loaded.model)])
            path = loaded.checkpoint.parent / FOLDER / f"{loaded.checkpoint.stem}_{digest(circumstances)[:12]}.pt"
            state = None if again or writer is not None else _read(path, fingerprint)
    state = distributed.broadcast(state)
    if state is not None:
        evaluator = make_evaluator(loaded.model, loaded.dataset, loaded.config.data.evaluator)
        evaluator.load_state_dict(state["outputs"])
        return Once(Measured(evaluator, Divergence.from_state_dict(state["divergence"])), path, True)
    measured = measure_loaded(loaded, batch_size, progress=progress, writer=writer)
    if distributed.is_main():
        path = _write(path, fingerprint, measured)
    return Once(measured, path, False)


def digest(value: object) -> str:
    """SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 of a model's parameters and buffers."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _circumstances(loaded: Loaded, batch_size: int) -> dict[str, Any]:
    """What the outcome depends on, apart from the weights."""
    device = loaded.device
    return {
        "settings": with_absolute_paths(loaded.config).to_dict(),
        "data": digest(loaded.dataset.ground_truth()),
        "images": _files_digest(loaded.dataset),
        "batch": [batch_size, distributed.world_size()],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": {**VERSIONS, **{name: _version(name) for name in _PACKAGES}},
        "sources": _sources_digest(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _files_digest(dataset: CocoDetection) -> str:
    facts = []
    for index in range(len(dataset)):
        path = dataset.image_path(index)
        try:
            found = path.stat()
        except OSError:  # removed since the data set was read
            facts.append([str(path)])
        else:  # the second time changes with the content even if a copy has kept the first
            facts.append([str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns])
    return digest(facts)


@functools.cache
def _sources_digest() -> str:
    """Of this package as it is installed: a change of its code may change every outcome."""
    found = hashlib.sha256()
    for root in sorted({Path(mlc_ext.__file__).parent, Path(__file__).resolve().parents[1]}):
        for path in sorted(each for kind in ("*.py", "*.so") for each in root.rglob(kind)):
            found.update(str(path.relative_to(root)).encode())
            found.update(path.read_bytes())
    return found.hexdigest()


def _read(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The kept outcome; None without one, for another fingerprint, or for a file that cannot be read."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # torch raises many types for damaged files
        _LOG.warning("%s cannot be read and is computed again: %s", path, type(error).__name__)
        return None
    known = isinstance(state, dict) and (state.get("format"), state.get("fingerprint")) == (_FORMAT, fingerprint)
    return state if known else None


def _write(path: Path, fingerprint: str, measured: Measured) -> Path | None:
    """The file, or None if it cannot be written."""
    state = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "outputs": measured.evaluator.state_dict(),
        "divergence": measured.divergence.state_dict(),
    }
    try:
        check_writable(path)
        with writing(path), replacing(path) as file:
            save_tensors(state, file)
    except OSError as error:
        _LOG.warning("the evaluation is not kept: %s", error)
        return None
    return path
