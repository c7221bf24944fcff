"""Detectors that are trained with the method, and the programs that train, evaluate and apply them.

:func:`load` is the way to a trained detector from Python. Nothing else is imported before it is used: the programs and
their packages take seconds.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .prediction.predictor import Predictor
    from .prediction.result import Classes, Detection, Detections, FrameDetections, Results

__all__ = ["Classes", "Detection", "Detections", "FrameDetections", "Predictor", "Results", "load"]

_PLACES = {
    "Classes": "result",
    "Detection": "result",
    "Detections": "result",
    "FrameDetections": "result",
    "Predictor": "predictor",
    "Results": "result",
}


def load(checkpoint: str | os.PathLike[str], device: str = "auto") -> Predictor:
    """The trained detector of a run, for predictions: ``load("runs/demo/seed0/MLC").predict("photo.jpg")``.

    Where the run kept averaged weights (``schedule.ema``), they are used, as in evaluation.

    Args:
        checkpoint: a run's folder, for its best.pt (``run.best_metric``) or else its newest usable checkpoint; a
            checkpoint's file; or a file of `mlc-ext export` (.onnx or .pt2; a .pt2 file is code: open trusted ones
            only).
        device: "cpu", "cuda", "cuda:1", or "auto" for a GPU if there is one.

    Raises:
        FileNotFoundError: no such file, or a folder without checkpoints.
        ValueError: not a checkpoint of this project, or a device that does not exist or, for an exported file, is not
            the CPU.
        ImportError: a package is missing; ``pip install 'mlc-ext[detectors]'`` installs those that all detectors need,
            ``'mlc-ext[export]'`` what exported files need.
    """
    from .prediction.predictor import Predictor

    return Predictor(checkpoint, device)


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".prediction.{_PLACES[name]}", __name__), name)
