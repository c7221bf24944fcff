"""Compiles a driver of this folder into a shared library (or a program) with the host compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
FLAGS = ["-std=c++20", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-pthread"]


def compiler() -> str | None:
    """A C++20 compiler with std::barrier, or None."""
    return shutil.which(os.environ.get("CXX", "g++"))


def build(driver: str, output: Path, *flags: str) -> Path:
    """Compiles `driver`.cpp to `output`; what the compiler says becomes the error."""
    command = [compiler(), *FLAGS, *flags, str(FOLDER / f"{driver}.cpp"), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return output
