"""Checkpoints: written whole or not at all, read without running code from the file."""

from __future__ import annotations

import os
from pathlib import Path

import torch

FORMAT = "mlc_ext detector checkpoint 1"
_KEYS = ("model", "config", "num_classes", "iteration")


def save_checkpoint(path: Path, state: dict) -> None:
    """Writes ``state`` beside ``path`` and renames it there: a reader, or a crash, never meets half a file."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, "torch": str(torch.__version__), **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    except Exception as error:  # whatever damaged bytes make of the reader, whose own text advises unsafe loading
        raise ValueError(f"{path} is no readable checkpoint: truncated, or not written by this project") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of this project (no format mark {FORMAT!r})")
    missing = [key for key in _KEYS if key not in state]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    return state
