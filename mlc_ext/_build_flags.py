"""Sources, macros and compiler flags of the extension: one place for setup.py, the JIT loader and CMake.

Imported by setup.py before mlc_ext can be, hence without relative imports; run as a script by CMake, hence without
torch at the top.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

# The oldest torch whose stable ABI a built module runs on: 2.11.
TORCH_TARGET_VERSION = "0x020b000000000000"

# No fused multiply-add: CPU and CUDA must round alike (csrc/host_device.h).
CXX_FLAGS = [
    "-O3",
    "-std=c++17",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",  # no value changes, but loops with conditions vectorise
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-g0",  # Python's own flags say -g: ten times the file
]
NVCC_FLAGS = ["-O3", "-std=c++17", "-fmad=false", "--expt-relaxed-constexpr", "--extended-lambda"]

# What CUDA code is compiled for where no GPU can be asked and TORCH_CUDA_ARCH_LIST is not set; PTX covers newer ones.
DEFAULT_CUDA_ARCH_LIST = "7.5;8.0;8.6;9.0+PTX"

_SANITIZERS = {"address,undefined", "thread"}


def version(package_dir: Path) -> str:
    text = (package_dir / "_version.py").read_text()
    return re.search(r'__version__ = "([^"]+)"', text).group(1)


def sanitizer() -> str | None:
    """MLC_EXT_SANITIZE, for tools/sanitize.sh: "address,undefined", "thread" or None."""
    name = os.environ.get("MLC_EXT_SANITIZE") or None
    if name is not None and name not in _SANITIZERS:
        raise RuntimeError(f"MLC_EXT_SANITIZE must be one of {', '.join(sorted(_SANITIZERS))}, got {name!r}")
    return name


def cxx_flags() -> list[str]:
    if sanitizer() is None:
        return CXX_FLAGS
    checked = [f"-fsanitize={sanitizer()}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1"]
    return [flag for flag in CXX_FLAGS if flag not in ("-g0", "-O3")] + checked


def link_flags() -> list[str]:
    return [] if sanitizer() is None else [f"-fsanitize={sanitizer()}"]


def macros(package_dir: Path) -> list[tuple[str, str | None]]:
    return [
        ("MLC_EXT_VERSION", f'"{version(package_dir)}"'),
        ("MLC_EXT_FLAGS", f'"{" ".join(cxx_flags())}"'),
        ("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION),
    ]


def operator_sources(csrc: Path) -> list[Path]:
    """Schemas and CPU kernels, without Python."""
    return [csrc / "library.cpp", *sorted((csrc / "cpu").glob("*.cpp"))]


def cpu_sources(csrc: Path) -> list[Path]:
    return [csrc / "python_module.cpp", *operator_sources(csrc)]


def cuda_sources(csrc: Path) -> list[Path]:
    return [csrc / "cuda" / "library.cpp", *sorted((csrc / "cuda").glob("*.cu"))]


def wants_cuda(cuda_home: str | None) -> bool:
    """Whether mlc_ext._C_cuda is to be built: where nvcc and a CUDA torch are, unless MLC_EXT_CPU_ONLY=1.

    FORCE_CUDA=1 makes it an error if it cannot be. Without a GPU to ask, TORCH_CUDA_ARCH_LIST gets a default.
    """
    import torch

    cpu_only, forced = (os.environ.get(name) == "1" for name in ("MLC_EXT_CPU_ONLY", "FORCE_CUDA"))
    if cpu_only and forced:
        raise RuntimeError("MLC_EXT_CPU_ONLY=1 and FORCE_CUDA=1 contradict each other: unset one")
    nvcc = None if cuda_home is None else shutil.which("nvcc", path=os.path.join(cuda_home, "bin"))
    able = torch.version.cuda is not None and nvcc is not None
    if forced and not able:
        raise RuntimeError(
            f"FORCE_CUDA=1, but torch {torch.__version__} was built with CUDA {torch.version.cuda} and nvcc is {nvcc} "
            f"(CUDA_HOME {cuda_home}): install a CUDA build of torch and the CUDA toolkit, or unset FORCE_CUDA"
        )
    if cpu_only or not able:
        return False
    if not torch.cuda.is_available():  # torch's own default is an IndexError there
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_CUDA_ARCH_LIST)
    return True


if __name__ == "__main__":  # for CMake: one kind of flags as a CMake list
    _package = Path(__file__).resolve().parent
    _lists = {
        "cxx": CXX_FLAGS,
        "nvcc": NVCC_FLAGS,
        "sources": operator_sources(_package.parent / "csrc"),
        "cuda-sources": [p for p in cuda_sources(_package.parent / "csrc") if p.suffix == ".cu"],
        "torch-target-version": [TORCH_TARGET_VERSION],
        "version": [version(_package)],
    }
    print(";".join(map(str, _lists[sys.argv[1]])))
