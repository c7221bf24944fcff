#!/usr/bin/env python
"""Compiles every CUDA source for several GPU architectures with warnings as errors; needs nvcc, but no GPU.

The headers of any torch build do, a CPU-only one as well. Nothing is kept: this tells whether the sources
compile, setup.py builds the module. Without nvcc it says so and succeeds.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "mlc_ext"))
import _build_flags as flags  # noqa: E402


def compile_one(nvcc: str, source: Path, architectures: list[str], folder: Path) -> tuple[Path, float, str]:
    """-> (source, seconds, what the compiler said if it failed)."""
    include = Path(torch.__file__).parent / "include"
    command = [nvcc, "-c", str(source), "-o", str(folder / f"{source.stem}.o"), "-Werror", "all-warnings"]
    command += [*flags.NVCC_FLAGS, "-Xcompiler", "-Wall,-Wextra,-Wno-unused-parameter", "-DUSE_CUDA"]
    command += [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    command += [f"-D{name}={value}" for name, value in flags.macros(ROOT / "mlc_ext")]
    command += ["-DTORCH_EXTENSION_NAME=_C_cuda", "-isystem", str(include)]
    command += ["-isystem", str(include / "torch" / "csrc" / "api" / "include")]
    command += ["-isystem", sysconfig.get_paths()["include"]]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    message = done.stdout + done.stderr
    return source, time.perf_counter() - start, message if done.returncode or message.strip() else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="75,80,90,100", help="compute capabilities (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("sources", nargs="*", type=Path, help="default: all of csrc/cuda")
    args = parser.parse_args()
    architectures = args.arch.split(",")
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=f"{cpp_extension.CUDA_HOME}/bin")
    if not nvcc:
        print("compile_cuda: skipped, there is no nvcc")
        return 0
    sources = args.sources or flags.cuda_sources(ROOT / "csrc")
    failures = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        jobs = [pool.submit(compile_one, nvcc, source, architectures, Path(folder)) for source in sources]
        for job in jobs:
            source, seconds, message = job.result()
            failures += bool(message)
            print(f"{'FAILED' if message else 'ok':6} {seconds:5.1f} s  {source.name}", flush=True)
            if message:
                print(message)
    print(f"compile_cuda: {len(sources)} sources for sm_{', sm_'.join(architectures)}, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
