"""Sources, macros and compiler flags of the extension: one place for setup.py, the JIT loader and CMake.

setup.py imports this file before mlc_ext can be imported: no relative imports. CMake runs it as a script, possibly
without torch: no import of torch at the top.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

# The oldest torch whose stable ABI a built module runs on: 2.11.
TORCH_TARGET_VERSION = "0x020b000000000000"

# No fused multiply-add: CPU and CUDA must round alike (csrc/host_device.h).
CXX_FLAGS = [
    "-O3",
    "-std=c++17",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",  # no value changes, but loops with conditions vectorize
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-g0",  # Python's own flags say -g: ten times the file
]
NVCC_FLAGS = ["-O3", "-std=c++17", "-fmad=false", "--expt-relaxed-constexpr", "--extended-lambda"]

# The architectures without a visible GPU and without TORCH_CUDA_ARCH_LIST; PTX covers newer ones.
DEFAULT_CUDA_ARCH_LIST = "7.5;8.0;8.6;9.0+PTX"

_SANITIZERS = {"address,undefined", "thread"}


def version(package_dir: Path) -> str:
    text = (package_dir / "_version.py").read_text()
    found = re.search(r'__version__ = "([^"]+)"', text)
    assert found is not None, f"no __version__ in {package_dir / '_version.py'}"
    return found.group(1)


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


def compiler_problem() -> str | None:
    """Why no extension can be compiled here, in a line; None if nothing is known to be missing.

    Asked before a build, whose own error would stand among hundreds of lines of a build log.
    """
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    if shutil.which(compiler[0]) is None:
        return f"no C++ compiler: {compiler[0]} was not found (on Debian: apt-get install g++; or set CXX)"
    command = [*compiler, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    done = subprocess.run(command, input="#include <optional>\n", capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["failed"]
        return f"{shlex.join(compiler)} cannot compile C++17: {lines[0].strip()}"
    scheme = "nt" if sys.platform == "win32" else "posix_prefix"  # as torch's build functions look for it
    header = Path(sysconfig.get_path("include", scheme)) / "Python.h"
    if not header.is_file():
        return f"Python's headers are missing: no {header} (on Debian: apt-get install python3-dev)"
    return None


def cuda_home() -> str | None:
    """The folder of the CUDA toolkit. It is stored in CUDA_HOME, which torch's build functions read.

    Without CUDA_HOME it is the parent folder of the nvcc on PATH. If that nvcc is a wrapper script, which is not beside
    the toolkit, its own output names the folder.
    """
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or None
    if home is None and (nvcc := shutil.which("nvcc")) is not None:
        home = os.path.dirname(os.path.dirname(nvcc))
        if not os.path.isfile(os.path.join(home, "include", "cuda_runtime.h")):
            done = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-E", os.devnull], capture_output=True, text=True)
            if found := re.search(r"^#\$ TOP=(.+)$", done.stderr, re.MULTILINE):
                home = os.path.realpath(found.group(1).strip())
    elif home is None and os.path.isdir("/usr/local/cuda"):
        home = "/usr/local/cuda"
    if home is not None:
        os.environ["CUDA_HOME"] = home
        # if it is imported already, it has its own value
        if (cpp_extension := sys.modules.get("torch.utils.cpp_extension")) is not None:
            vars(cpp_extension)["CUDA_HOME"] = home
    return home


def cuda_architectures() -> str:
    """The architectures to compile CUDA code for, in the form of TORCH_CUDA_ARCH_LIST: the value of that variable, else
    those of the visible GPUs, else a default. For a GPU newer than every architecture that torch was built for, it is
    PTX of the newest of these. Reading those of the GPUs initializes CUDA."""
    if named := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return named
    try:
        import torch
    except ImportError:  # CMake with a libtorch
        return DEFAULT_CUDA_ARCH_LIST
    if not torch.cuda.is_available():
        return DEFAULT_CUDA_ARCH_LIST
    capabilities = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    known = [divmod(int(name[3:]), 10) for name in torch.cuda.get_arch_list() if re.fullmatch(r"sm_\d+", name)]
    names = set()
    for major, minor in capabilities:
        newest = max(known, default=(major, minor))
        names.add("{}.{}+PTX".format(*newest) if (major, minor) > newest else f"{major}.{minor}")
    return ";".join(sorted(names))


def wants_cuda() -> bool:
    """Whether to build mlc_ext._C_cuda: with nvcc and a CUDA build of torch, unless MLC_EXT_CPU_ONLY=1.

    With FORCE_CUDA=1, RuntimeError if it cannot be built. If it is to be built, CUDA_HOME and TORCH_CUDA_ARCH_LIST are
    set, because torch's own defaults fail with a wrapper of nvcc and without a GPU.
    """
    import torch

    cpu_only, forced = (os.environ.get(name) == "1" for name in ("MLC_EXT_CPU_ONLY", "FORCE_CUDA"))
    if cpu_only and forced:
        raise RuntimeError("MLC_EXT_CPU_ONLY=1 and FORCE_CUDA=1 contradict each other: unset one")
    if cpu_only or (torch.version.cuda is None and not forced):
        return False
    home = cuda_home()
    nvcc = None if home is None else shutil.which("nvcc", path=os.path.join(home, "bin"))
    if torch.version.cuda is None or nvcc is None:
        if not forced:
            return False
        raise RuntimeError(
            f"FORCE_CUDA=1, but torch {torch.__version__} was built with CUDA {torch.version.cuda} and nvcc is {nvcc} "
            f"(CUDA_HOME {home}): install a CUDA build of torch and the CUDA toolkit, or unset FORCE_CUDA"
        )
    os.environ["TORCH_CUDA_ARCH_LIST"] = cuda_architectures()
    return True


def cmake_cuda_architectures() -> list[str]:
    """:func:`cuda_architectures` in the form of CMAKE_CUDA_ARCHITECTURES: "9.0+PTX" is "90", "9.0" is "90-real"."""
    found = []
    for name in re.split(r"[; ]+", cuda_architectures().strip("; ")):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", name)
        if match is None:
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST: {name!r} has no number; pass -DCMAKE_CUDA_ARCHITECTURES=...")
        major, minor, suffix, ptx = match.groups()
        found.append(f"{major}{minor}{suffix}" + ("" if ptx else "-real"))
    return found


if __name__ == "__main__":  # for CMake: one kind of flags as a CMake list
    _package = Path(__file__).resolve().parent
    _kinds: dict[str, Callable[[], Sequence[str | Path]]] = {
        "cxx": lambda: CXX_FLAGS,
        "nvcc": lambda: NVCC_FLAGS,
        "sources": lambda: operator_sources(_package.parent / "csrc"),
        "cuda-sources": lambda: [p for p in cuda_sources(_package.parent / "csrc") if p.suffix == ".cu"],
        "cuda-home": lambda: [cuda_home() or ""],
        "cmake-cuda-architectures": cmake_cuda_architectures,
        "torch-target-version": lambda: [TORCH_TARGET_VERSION],
        "version": lambda: [version(_package)],
    }
    print(";".join(map(str, _kinds[sys.argv[1]]())))
