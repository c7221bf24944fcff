"""Loads the compiled operators, once, when mlc_ext is imported.

Order: the installed mlc_ext._C; with MLC_EXT_JIT=1 a build made on the spot; else one error that says what to run.
The CUDA module is a separate one and optional.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import torch  # noqa: F401  (its libraries must be loaded before the extension's)

_HOW_TO_BUILD = (
    "mlc_ext is not built: its compiled operators (mlc_ext._C) cannot be imported ({reason}).\n"
    "Build them with `python setup.py develop` (or `pip install -e . --no-build-isolation`) in the source tree, "
    "or set MLC_EXT_JIT=1 to compile on first import."
)


def _import(name: str) -> ModuleType | None:
    """The module, or None if there is none. A module that exists but fails to load raises."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


def load() -> tuple[ModuleType, ModuleType | None]:
    """-> (CPU module, CUDA module or None)."""
    if os.environ.get("MLC_EXT_JIT") == "1":
        from . import _jit

        return _jit.load()
    try:
        cpu = _import("mlc_ext._C")
    except ImportError as error:  # built for another Python or torch
        raise ImportError(_HOW_TO_BUILD.format(reason=error)) from error
    if cpu is None:
        raise ImportError(_HOW_TO_BUILD.format(reason="no such module"))
    return cpu, _import("mlc_ext._C_cuda")
