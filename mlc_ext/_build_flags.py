"""Sources, macros and compiler flags of the extension: one place for setup.py and the JIT loader.

Imported by setup.py before mlc_ext can be, hence without relative imports.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

# The oldest torch whose stable ABI a built module runs on: 2.11.
TORCH_TARGET_VERSION = "0x020b000000000000"

# No fused multiply-add: CPU and CUDA must round alike (csrc/host_device.h).
CXX_FLAGS = ["-O3", "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]
NVCC_FLAGS = ["-O3", "-std=c++17", "-fmad=false", "--expt-relaxed-constexpr", "--extended-lambda"]


def version(package_dir: Path) -> str:
    text = (package_dir / "_version.py").read_text()
    return re.search(r'__version__ = "([^"]+)"', text).group(1)


def macros(package_dir: Path) -> list[tuple[str, str | None]]:
    return [
        ("MLC_EXT_VERSION", f'"{version(package_dir)}"'),
        ("MLC_EXT_FLAGS", f'"{" ".join(CXX_FLAGS)}"'),
        ("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION),
    ]


def cpu_sources(csrc: Path) -> list[Path]:
    return [csrc / "library.cpp", *sorted((csrc / "cpu").glob("*.cpp"))]


def cuda_sources(csrc: Path) -> list[Path]:
    return [csrc / "cuda" / "library.cpp", *sorted((csrc / "cuda").glob("*.cu"))]


def wants_cuda(cuda_home: str | None) -> bool:
    if os.environ.get("MLC_EXT_CPU_ONLY") == "1":
        return False
    if os.environ.get("FORCE_CUDA") == "1":
        if torch.version.cuda is None or cuda_home is None:
            raise RuntimeError(
                f"FORCE_CUDA=1, but torch {torch.__version__} has CUDA {torch.version.cuda} and CUDA_HOME is {cuda_home}: "
                "install a CUDA build of torch and the CUDA toolkit, or unset FORCE_CUDA"
            )
        return True
    return torch.version.cuda is not None and cuda_home is not None and torch.cuda.is_available()
