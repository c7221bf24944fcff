"""Compiles a driver of this folder into a shared library (or a program) with the host compiler."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent
# contraction off, as for the CPU kernels: results are compared bit for bit
FLAGS = ["-std=c++20", "-O1", "-ffp-contract=off", "-pthread", "-Wno-unknown-pragmas"]
# for the half types, which are headers alone
INCLUDE = ["-isystem", str(Path(torch.__file__).parent / "include")]


@functools.cache
def compiler() -> str | None:
    """A C++20 compiler whose library has std::barrier, or None."""
    path = shutil.which(os.environ.get("CXX", "g++"))
    if path is None:
        return None
    probe = [path, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"]
    done = subprocess.run(probe, input="#include <barrier>\nstd::barrier<> b{1};\n", capture_output=True, text=True)
    return path if done.returncode == 0 else None


def build(driver: str, output: Path, *flags: str) -> Path:
    """Compiles `driver`.cpp to `output`; the compiler's messages become the error."""
    command = [compiler(), *FLAGS, *INCLUDE, *flags, str(FOLDER / f"{driver}.cpp"), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return output
