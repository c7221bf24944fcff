"""Builds mlc_ext._C (CPU, always) and mlc_ext._C_cuda (when nvcc and a CUDA torch are there).

Environment:
  MLC_EXT_CPU_ONLY=1      never build the CUDA module
  FORCE_CUDA=1            build it even if no GPU is visible (fails if torch or nvcc cannot)
  TORCH_CUDA_ARCH_LIST    GPU architectures, as torch reads them ("9.0" or "8.0;9.0+PTX")
  MAX_JOBS                compilers at a time
"""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Command, find_packages, setup
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "mlc_ext"))
import _build_flags as flags  # noqa: E402  (shared with the JIT loader; must not import mlc_ext itself)


class DevelopCommand(Command):
    """`setup.py develop` as an editable install in this very environment: setuptools' own would build in an
    isolated one and download a second torch for it."""

    description = "install in development mode (pip install --no-build-isolation --no-deps -e .)"
    user_options = [("no-deps", "N", "accepted for compatibility; dependencies are never installed here")]
    boolean_options = ["no-deps"]

    def initialize_options(self):
        self.no_deps = True

    def finalize_options(self):
        pass

    def run(self):
        command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-e", str(ROOT)]
        raise SystemExit(subprocess.call(command))


def extensions():
    # relative paths: setuptools records them in the source list of an sdist
    def relative(paths):
        return [str(path.relative_to(ROOT)) for path in paths]

    modules = [
        cpp_extension.CppExtension(
            "mlc_ext._C",
            relative(flags.cpu_sources(ROOT / "csrc")),
            define_macros=flags.macros(ROOT / "mlc_ext"),
            extra_compile_args={"cxx": flags.CXX_FLAGS},
        )
    ]
    if flags.wants_cuda(cpp_extension.CUDA_HOME):
        modules.append(
            cpp_extension.CUDAExtension(
                "mlc_ext._C_cuda",
                relative(flags.cuda_sources(ROOT / "csrc")),
                define_macros=[*flags.macros(ROOT / "mlc_ext"), ("USE_CUDA", None)],
                extra_compile_args={"cxx": flags.CXX_FLAGS, "nvcc": flags.NVCC_FLAGS},
            )
        )
    return modules


setup(
    packages=find_packages(include=["mlc_ext*", "detectors*"]),
    ext_modules=extensions(),
    cmdclass={
        "build_ext": cpp_extension.BuildExtension.with_options(use_ninja=os.environ.get("MLC_EXT_NO_NINJA") != "1"),
        "develop": DevelopCommand,
    },
)
