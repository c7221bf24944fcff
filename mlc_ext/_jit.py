"""Compiles the operators on first import (MLC_EXT_JIT=1), through torch.utils.cpp_extension.load.

The cache is keyed by everything that changes the result: sources, flags, torch, Python, compiler, GPU architectures. It lies in
$MLC_EXT_CACHE, else in $XDG_CACHE_HOME/mlc_ext, else in ~/.cache/mlc_ext. torch's loader waits for ever on the lock of a build that
was killed; here a build is guarded by a kernel lock (flock), which dies with its owner, so a torch lock found while
holding it is stale and is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from pathlib import Path
from types import ModuleType

import torch

from . import _build_flags as flags

PACKAGE = Path(__file__).resolve().parent


def source_dir() -> Path:
    """csrc/ of the source tree, or the copy a wheel carries."""
    for candidate in (PACKAGE.parent / "csrc", PACKAGE / "csrc"):
        if (candidate / "library.cpp").is_file():
            return candidate
    raise ImportError(f"MLC_EXT_JIT=1 needs the C++ sources; looked in {PACKAGE.parent / 'csrc'} and {PACKAGE / 'csrc'}")


def cache_dir(csrc: Path) -> Path:
    """Where the build for these sources, flags and versions lies."""
    digest = hashlib.sha256()
    for path in sorted(p for p in csrc.rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"}):
        digest.update(str(path.relative_to(csrc)).encode())
        digest.update(path.read_bytes())
    key = (
        flags.CXX_FLAGS,
        flags.NVCC_FLAGS,
        flags.macros(PACKAGE),
        torch.__version__,
        sys.version,
        platform.machine(),
        os.environ.get("CXX", ""),
        os.environ.get("TORCH_CUDA_ARCH_LIST", ""),
    )
    digest.update(repr(key).encode())
    root = os.environ.get("MLC_EXT_CACHE")
    if root is None:
        root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mlc_ext"
    return Path(root) / digest.hexdigest()[:16]


@contextlib.contextmanager
def build_lock(folder: Path):
    """Holds `folder` for one process; torch's own lock file, if one was left there, is removed."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "build.flock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        (folder / "lock").unlink(missing_ok=True)
        yield


def load() -> tuple[ModuleType, ModuleType | None]:
    """Builds (or finds) and imports the modules -> (CPU module, CUDA module or None)."""
    from torch.utils import cpp_extension

    csrc = source_dir()
    verbose = os.environ.get("MLC_EXT_JIT_VERBOSE") == "1"
    macros = [f"-D{name}" if value is None else f"-D{name}={value}" for name, value in _quoted(flags.macros(PACKAGE))]

    def build(name: str, sources: list[Path], cuda: bool) -> ModuleType:
        folder = cache_dir(csrc) / name
        with build_lock(folder):
            return cpp_extension.load(
                name=name,
                sources=[str(path) for path in sources],
                extra_cflags=[*flags.CXX_FLAGS, *macros, *(["-DUSE_CUDA"] if cuda else [])],
                extra_cuda_cflags=[*flags.NVCC_FLAGS, *macros, "-DUSE_CUDA"] if cuda else None,
                build_directory=str(folder),
                with_cuda=cuda,
                verbose=verbose,
            )

    cpu = build("mlc_ext_C", flags.cpu_sources(csrc), cuda=False)
    cuda = None
    if flags.wants_cuda(cpp_extension.CUDA_HOME):
        cuda = build("mlc_ext_C_cuda", flags.cuda_sources(csrc), cuda=True)
    return cpu, cuda


def _quoted(macros: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """String macros as a shell must see them: cpp_extension.load hands its flags to ninja unquoted."""
    return [(name, f"'{value}'" if value and value.startswith('"') else value) for name, value in macros]
