"""Checkpoints: written atomically, the newest few kept, read without running code from the file."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import platform
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mlc_ext._version import __version__

from ..config.overrides import differences, from_dict
from ..config.paths import with_absolute_paths
from ..config.settings import Config
from .files import replacing, writing
from .tensor_file import save_tensors

FORMAT = "mlc_ext detector checkpoint 2"
NAME = "checkpoint.pt"
BEST = "best.pt"
"""The checkpoint of the best evaluation (``run.best_metric``)."""
FREE = ("data.workers", "data.cache", "data.evaluator", "data.strict", "data.eval_short_side")
"""Settings that a resumed run may change, in addition to those of ``run`` except its seed: these affect execution, not
results."""

_KEYS = ("model", "config", "num_classes", "iteration")

VERSIONS = {"torch": str(torch.__version__), "mlc_ext": __version__, "python": platform.python_version()}


def save_checkpoint(path: Path, state: dict, *, keep: int | None = None) -> None:
    """Writes ``state`` by :func:`~mlc_ext.detectors.runs.files.replacing`: ``path`` is never an incomplete file.

    With ``keep``, the previous file becomes ``checkpoint.1.pt``, that one ``checkpoint.2.pt`` and so on, ``keep`` files
    in all. Without, the previous file is replaced. OSError names ``path``; the previous checkpoints remain.
    """
    path = Path(path)
    shift = None if keep is None else functools.partial(_shift, path, keep)
    with writing(path), replacing(path, before_rename=shift) as file:
        save_tensors({"format": FORMAT, **VERSIONS, **state}, file)


def runs_within(folder: Path) -> str:
    """A hint, as the end of a message, to the runs in a folder that is none; empty without one."""
    runs = sorted(below.parent for below in folder.glob(f"*/{NAME}"))
    return f"; there are runs in it: {', '.join(map(str, runs))}" if runs else ""


def _shift(path: Path, keep: int) -> None:
    for number, old in sorted(_numbered(path.parent).items(), reverse=True):
        new = path.with_name(f"{path.stem}.{number + 1}{path.suffix}")
        if number + 1 >= keep:
            if number > 0:  # 0 is about to be replaced
                old.unlink()
        elif number > 0:
            os.replace(old, new)
        else:
            try:
                os.link(old, new)
            except OSError:  # a file system without hard links: `path` is missing for a moment
                os.replace(old, new)


def _numbered(folder: Path) -> dict[int, Path]:
    """The run's checkpoints by age, 0 the newest."""
    found = {}
    for path in Path(folder).glob("checkpoint*.pt"):
        if match := re.fullmatch(r"checkpoint(?:\.(\d+))?\.pt", path.name):
            found[int(match[1] or 0)] = path
    return found


def load_newest(folder: Path, skipped: Callable[[str], None]) -> tuple[Path, dict] | None:
    """The newest usable checkpoint of a run's folder and its state; None if the folder has no checkpoint.

    Args:
        skipped: called with a message for each checkpoint that is damaged or not of this project.

    Raises ValueError if there are checkpoints and none can be used.
    """
    found = [path for _, path in sorted(_numbered(folder).items())]
    for path in found:
        try:
            return path, load_checkpoint(path)
        except ValueError as error:
            skipped(f"{error}; trying the one before")
    if found:
        raise ValueError(f"none of the {len(found)} checkpoints in {folder} can be used")
    return None


def tidy(folder: Path) -> None:
    """Removes the temporary files of killed processes."""
    for path in Path(folder).glob(".*"):
        if re.fullmatch(r"\.\w+\.(pt|jsonl?|txt)\.\d+", path.name):
            path.unlink(missing_ok=True)


def set_aside(folder: Path) -> None:
    """Moves the checkpoints of an earlier run to ``earlier/`` (``earlier.1/``, ... if that exists), so that a new run
    cannot resume from them."""
    _move(folder, [*_numbered(folder).values(), folder / BEST])


def set_best_aside(folder: Path) -> None:
    """Moves best.pt alone as :func:`set_aside` does, if there is one."""
    _move(folder, [folder / BEST])


def _move(folder: Path, paths: Sequence[Path]) -> None:
    found = [path for path in paths if path.is_file()]
    if not found:
        return
    place = next(p for n in itertools.count() if not (p := folder / (f"earlier.{n}" if n else "earlier")).exists())
    place.mkdir()
    for path in found:
        os.replace(path, place / path.name)


def load_checkpoint(path: Path) -> dict:
    """The state of :func:`save_checkpoint`, on the CPU.

    Raises:
        FileNotFoundError: no such file. ValueError: truncated, or not a checkpoint of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # damaged files raise many types; torch's message advises unsafe loading
        raise ValueError(f"{path} is no readable checkpoint: truncated, or not written by this project") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of this project (no format mark {FORMAT!r})")
    missing = [key for key in _KEYS if key not in state]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    return state


def trained_weights(state: dict) -> dict[str, Tensor]:
    """The weights to evaluate: the averages (``schedule.ema``) if the run has them."""
    return state["ema"]["weights"] if state.get("ema") else state["model"]


def check_unchanged(path: Path, state: dict, config: Config, allowed: tuple[str, ...] = ()) -> None:
    """ValueError, with the names of the settings, if ``config`` differs from the checkpoint's configuration.

    FREE settings may differ, and those in ``allowed``.
    """
    before, now = with_absolute_paths(from_dict(state["config"])), with_absolute_paths(config)
    changed = {
        name: values
        for name, values in differences(before, now).items()
        if name not in (*FREE, *allowed) and (name == "run.seed" or not name.startswith("run."))
    }
    if changed:
        listed = ", ".join(f"{name} was {before!r}, is {after!r}" for name, (before, after) in changed.items())
        raise ValueError(f"{path} is of a run with other settings: {listed} (--allow-change NAME accepts one)")


@contextlib.contextmanager
def as_misfit(path: Path):
    """Within, errors of loading a state are raised as a ValueError that names the file."""
    try:
        yield
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit this configuration: {error}") from error
