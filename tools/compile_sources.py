#!/usr/bin/env python
"""Compiles the sources without linking them, with warnings as errors: do they build, here and on the oldest torch?

By default every .cu with nvcc for several GPU architectures; no GPU is needed, and the headers of a CPU build of torch
suffice. With --torch VERSION every source, CPU and CUDA, against the headers of that release, without optimization: its
wheel is fetched with pip (530 MB for 2.11.0), only its headers are kept, in the cache folder of the user.

What cannot be done is reported and is no failure: there is no nvcc, the wheel cannot be fetched.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "mlc_ext"))
import _build_flags as flags  # noqa: E402


def installed_headers() -> Path:
    import torch

    return Path(torch.__file__).parent / "include"


def headers_of(version: str) -> Path | None:
    """torch/include of a release, fetched once; None where it cannot be fetched."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlc_ext"
    folder = cache / f"torch-headers-{version}-{sys.implementation.cache_tag}"
    include = folder / "torch" / "include"
    if include.is_dir():
        return include
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:  # beside it: then a finished folder can be moved in one step
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps"]
        command += ["--only-binary", ":all:", "-d", work, f"torch=={version}"]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(work).glob("*.whl"))
        if done.returncode or not wheels:
            print(f"compile_sources: not run, torch {version} could not be fetched: {done.stderr.strip()[-300:]}")
            return None
        with zipfile.ZipFile(wheels[0]) as wheel:
            headers = [name for name in wheel.namelist() if name.startswith("torch/include/")]
            wheel.extractall(Path(work) / "headers", headers)
        shutil.rmtree(folder, ignore_errors=True)
        (Path(work) / "headers").rename(folder)
    return include


class Compiler:
    """The command for each kind of source."""

    def __init__(self, include: Path, architectures: list[str], optimize: bool):
        self.nvcc = nvcc()
        self.architectures = architectures
        self.level = "-O3" if optimize else "-O0"
        self.common = [f"-D{name}={value}" for name, value in flags.macros(ROOT / "mlc_ext")]
        self.common += ["-DTORCH_EXTENSION_NAME=_C", "-isystem", str(include)]
        self.common += ["-isystem", str(include / "torch" / "csrc" / "api" / "include")]
        self.common += ["-isystem", sysconfig.get_paths()["include"]]

    def command(self, source: Path, output: Path) -> list[str]:
        if source.suffix == ".cu" or source.parent.name == "cuda":
            command = [self.nvcc, *flags.NVCC_FLAGS, "-DUSE_CUDA", "-Werror", "all-warnings"]
            command += ["-Xcompiler", "-Wall,-Wextra,-Wno-unused-parameter"]
            command += [f"-gencode=arch=compute_{a},code=sm_{a}" for a in self.architectures]
        else:
            command = [*shlex.split(os.environ.get("CXX") or "c++"), *flags.CXX_FLAGS, "-Werror", "-fPIC"]
        command = [self.level if argument == "-O3" else argument for argument in command]
        return [*command, *self.common, "-c", str(source), "-o", str(output)]


def nvcc() -> str | None:
    home = flags.cuda_home()
    return shutil.which("nvcc", path=os.path.join(home, "bin")) if home else shutil.which("nvcc")


def compile_one(compiler: Compiler, source: Path, folder: Path) -> tuple[Path, float, str]:
    """-> (source, seconds, the compiler's messages if it failed)."""
    start = time.perf_counter()
    output = folder / "-".join([*source.relative_to(ROOT).parts, "object.o"])
    done = subprocess.run(compiler.command(source, output), capture_output=True, text=True)
    message = done.stdout + done.stderr
    return source, time.perf_counter() - start, message if done.returncode or message.strip() else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", metavar="VERSION", help="against the headers of that release, e.g. 2.11.0")
    parser.add_argument("--arch", help="compute capabilities (default: 75,80,90,100; with --torch: 90)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("sources", nargs="*", type=Path, help="default: all of csrc/cuda; with --torch: all")
    args = parser.parse_args()
    architectures = (args.arch or ("90" if args.torch else "75,80,90,100")).split(",")
    include = headers_of(args.torch) if args.torch else installed_headers()
    if include is None:
        return 0
    sources = [path.resolve() for path in args.sources] or flags.cuda_sources(ROOT / "csrc")
    if args.torch and not args.sources:
        sources = [*flags.cpu_sources(ROOT / "csrc"), *sources]
    compiler = Compiler(include, architectures, optimize=not args.torch)
    if compiler.nvcc is None:
        print("compile_sources: there is no nvcc, the CUDA sources are left out")
        sources = [path for path in sources if path.parent.name != "cuda"]
    failures = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        for job in [pool.submit(compile_one, compiler, source, Path(folder)) for source in sources]:
            source, seconds, message = job.result()
            failures += bool(message)
            print(f"{'FAILED' if message else 'ok':6} {seconds:5.1f} s  {source.relative_to(ROOT)}", flush=True)
            if message:
                print(message)
    against = f"torch {args.torch}" if args.torch else "the installed torch"
    print(f"compile_sources: {len(sources)} against {against}, sm_{', sm_'.join(architectures)}: {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
