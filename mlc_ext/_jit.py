"""Compiles the operators on first import (MLC_EXT_JIT=1), through torch.utils.cpp_extension.load. Linux and macOS.

A build is cached in a folder whose name is a hash of all that changes the build: sources, flags, torch, Python,
compiler, and for the CUDA module the GPU architectures (TORCH_CUDA_ARCH_LIST, else those of the visible GPUs). The
folders are in $MLC_EXT_CACHE, else $XDG_CACHE_HOME/mlc_ext, else ~/.cache/mlc_ext. A finished build is imported without
ninja or a compiler. Reading the architectures of the visible GPUs initializes CUDA, even if the build is found: set
TORCH_CUDA_ARCH_LIST in programs that fork afterwards.

torch's loader waits without end for the lock file of a build that was killed. Here a build holds a lock of the
operating system, which ends with its process: a lock file of torch that is found while holding it is stale and is
removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch

from . import _build_flags as flags

PACKAGE = Path(__file__).resolve().parent


def source_dir() -> Path:
    """csrc/ of the source tree, or its copy in the installed package."""
    candidates = (PACKAGE.parent / "csrc", PACKAGE / "csrc")
    for candidate in candidates:
        if (candidate / "library.cpp").is_file():
            return candidate
    raise ImportError(f"MLC_EXT_JIT=1 needs the C++ sources; looked in {candidates[0]} and {candidates[1]}")


def cache_dir(csrc: Path, architectures: str = "") -> Path:
    """The folder of the build for these sources, flags, versions and GPU architectures."""
    digest = hashlib.sha256()
    for path in sorted(p for p in csrc.rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"}):
        digest.update(str(path.relative_to(csrc)).encode() + b"\0" + path.read_bytes())
    key = (
        flags.cxx_flags(),
        flags.NVCC_FLAGS,
        flags.macros(PACKAGE),
        torch.__version__,
        sys.version,
        platform.machine(),
        [os.environ.get(name, "") for name in ("CXX", "CFLAGS", "LDFLAGS")],
        [architectures, os.environ.get("CUDA_HOME", "")] if architectures else [],
    )
    digest.update(repr(key).encode())
    root = os.environ.get("MLC_EXT_CACHE")
    if not root:
        root = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "mlc_ext")
    return Path(root) / digest.hexdigest()[:16]


@contextlib.contextmanager
def build_lock(folder: Path) -> Iterator[None]:
    """Holds `folder` for one process; torch's own lock file, if one was left there, is removed."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "build.flock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"mlc_ext: another process compiles in {folder}; waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        (folder / "lock").unlink(missing_ok=True)
        yield


def _import_file(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # of a file with a library's suffix they never are
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(name: str, sources: list[Path], folder: Path, cuda: bool) -> ModuleType:
    """Imports the module compiled from `sources`, or the one of an earlier build in `folder`."""
    library, finished = folder / f"{name}.so", folder / "finished"
    macros = [f"-D{key}" if value is None else f"-D{key}={_quoted(value)}" for key, value in flags.macros(PACKAGE)]
    with build_lock(folder):
        if finished.is_file() and library.is_file():
            return _import_file(name, library)
        if (problem := flags.compiler_problem()) is not None:
            raise ImportError(f"MLC_EXT_JIT=1: {name} cannot be compiled: {problem}")
        from torch.utils import cpp_extension

        print(f"mlc_ext: compiling {name} in {folder} (once; about a minute)", file=sys.stderr, flush=True)
        try:
            module: ModuleType = cpp_extension.load(
                name=name,
                sources=[str(path) for path in sources],
                extra_cflags=[*flags.cxx_flags(), *macros, *(["-DUSE_CUDA"] if cuda else [])],
                extra_cuda_cflags=[*flags.NVCC_FLAGS, *macros, "-DUSE_CUDA"] if cuda else None,
                extra_ldflags=flags.link_flags(),
                build_directory=str(folder),
                with_cuda=cuda,
                verbose=os.environ.get("MLC_EXT_JIT_VERBOSE") == "1",
            )
        except (RuntimeError, OSError) as error:
            raise ImportError(
                f"MLC_EXT_JIT=1: compiling {name} in {folder} failed. It needs ninja (`pip install ninja`) and a C++17 "
                f"compiler ($CXX, default c++); MLC_EXT_JIT_VERBOSE=1 shows the commands.\n{error}"
            ) from error
        finished.touch()
        return module


def _quoted(value: str) -> str:
    """A string macro quoted for the shell: cpp_extension.load passes its flags to ninja unchanged."""
    return f"'{value}'" if value.startswith('"') else value


def load() -> tuple[ModuleType, ModuleType | None]:
    """Builds (or finds) and imports the modules -> (CPU module, CUDA module or None)."""
    csrc = source_dir()
    with restored_environment("CUDA_HOME", "TORCH_CUDA_ARCH_LIST"):  # flags.wants_cuda sets them
        wants_cuda = flags.wants_cuda()
        cpu = build("mlc_ext_C", flags.cpu_sources(csrc), cache_dir(csrc) / "cpu", cuda=False)
        if not wants_cuda:
            return cpu, None
        folder = cache_dir(csrc, flags.cuda_architectures()) / "cuda"
        return cpu, build("mlc_ext_C_cuda", flags.cuda_sources(csrc), folder, cuda=True)


@contextlib.contextmanager
def restored_environment(*names: str) -> Iterator[None]:
    """A context that restores the environment variables `names` at its end."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
