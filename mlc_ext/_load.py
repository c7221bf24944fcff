"""Loads the compiled operators, once, when mlc_ext is imported.

With MLC_EXT_JIT=1 the modules are compiled, or found in the cache; otherwise the installed mlc_ext._C is imported. If
there is none, an ImportError names the command that builds it. The CUDA module is separate and optional, but an
installed one must load.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import torch  # noqa: F401  (its libraries must be loaded before the extension's)

from ._version import __version__

_HOW_TO_BUILD = (
    "mlc_ext is not built: its compiled operators ({name}) cannot be used ({reason}).\n"
    "Build them with `python setup.py develop` (or `pip install -e . --no-build-isolation`) in the source tree, "
    "or set MLC_EXT_JIT=1 to compile on first import."
)


def _import(name: str) -> ModuleType | None:
    """The module, or None if it is not installed. ImportError if it fails to load or belongs to another version."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        raise
    except ImportError as error:  # built for another Python or torch
        raise ImportError(_HOW_TO_BUILD.format(name=name, reason=error), name=name) from error
    built = getattr(module, "version", __version__)
    if built != __version__:
        reason = f"built from version {built}, but the Python files are {__version__}"
        raise ImportError(_HOW_TO_BUILD.format(name=name, reason=reason), name=name)
    return module


def load() -> tuple[ModuleType, ModuleType | None]:
    """-> (CPU module, CUDA module or None)."""
    if os.environ.get("MLC_EXT_JIT") == "1":
        from . import _jit

        return _jit.load()
    cpu = _import("mlc_ext._C")
    if cpu is None:
        raise ImportError(_HOW_TO_BUILD.format(name="mlc_ext._C", reason="no such module"), name="mlc_ext._C")
    return cpu, _import("mlc_ext._C_cuda")
