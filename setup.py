"""Builds mlc_ext._C (CPU, always) and mlc_ext._C_cuda (when nvcc and a CUDA torch are there).

Environment:
  MLC_EXT_CPU_ONLY=1      never build the CUDA module
  FORCE_CUDA=1            fail if the CUDA module cannot be built
  TORCH_CUDA_ARCH_LIST    GPU architectures, as torch reads them ("9.0" or "8.0;9.0+PTX"); default: the visible GPUs'
  MAX_JOBS                compilers at a time
  MLC_EXT_SANITIZE        "address,undefined" or "thread": see tools/sanitize.sh
"""

import shutil
import subprocess
import sys
from pathlib import Path

import setuptools
from setuptools import Command, find_packages, setup
from setuptools.command.build_py import build_py

SETUPTOOLS = int(setuptools.__version__.split(".")[0])
if SETUPTOOLS < 64:  # neither editable installs nor pyproject.toml's tables
    raise SystemExit(
        f"mlc-ext: setuptools {setuptools.__version__} is too old, 64 is needed: pip install 'setuptools>=77'"
    )

ROOT = Path(__file__).resolve().parent
DETECTORS = "mlc_ext.detectors"  # the folder detectors/ installed; mlc_ext/__init__.py finds it in a source tree
sys.path.insert(0, str(ROOT / "mlc_ext"))
import _build_flags as flags  # noqa: E402  (shared with the JIT loader; must not import mlc_ext itself)

try:
    import torch

    if torch.version.cuda is not None:
        flags.cuda_home()  # before torch's build functions look for it
    from torch.utils import cpp_extension
except ImportError as error:
    raise SystemExit(
        f"mlc-ext: setup.py needs torch >= 2.11 in this environment ({error}).\n"
        "Install it first (`pip install torch==2.13.0 ninja 'setuptools>=77'`), then run this again; with pip, add "
        "--no-build-isolation so that the build sees it."
    ) from None


class Develop(Command):
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
        pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-e", str(ROOT)]
        if status := subprocess.call(pip):
            raise SystemExit(status)


class BuildPy(build_py):
    """Carries csrc/ into the wheel, so that MLC_EXT_JIT=1 works from there too."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "mlc_ext" / "csrc"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / "csrc", target)


class BuildExt(cpp_extension.BuildExtension):
    """Keeps the objects in one place: an editable install, which would use a temporary one, and a wheel share them.
    A missing compiler is reported in one line, before anything is compiled."""

    def run(self):
        if (problem := flags.compiler_problem()) is not None:
            raise SystemExit(f"mlc-ext: {problem}")
        super().run()

    def finalize_options(self):
        asked = self.build_temp
        super().finalize_options()
        if asked is None:
            key = [sys.implementation.cache_tag, f"torch{torch.__version__}", *(flags.sanitizer() or "").split(",")]
            self.build_temp = str(Path("build") / "-".join(["objects", *filter(None, key)]))


def extensions():
    # relative paths: setuptools records them in the source list of an sdist
    def relative(paths):
        return [str(path.relative_to(ROOT)) for path in paths]

    macros = flags.macros(ROOT / "mlc_ext")
    modules = [
        cpp_extension.CppExtension(
            "mlc_ext._C",
            relative(flags.cpu_sources(ROOT / "csrc")),
            define_macros=macros,
            extra_compile_args={"cxx": flags.cxx_flags()},
            extra_link_args=flags.link_flags(),
        )
    ]
    if flags.wants_cuda():
        modules.append(
            cpp_extension.CUDAExtension(
                "mlc_ext._C_cuda",
                relative(flags.cuda_sources(ROOT / "csrc")),
                define_macros=[*macros, ("USE_CUDA", None)],
                extra_compile_args={"cxx": flags.cxx_flags(), "nvcc": flags.NVCC_FLAGS},
                extra_link_args=flags.link_flags(),
            )
        )
    return modules


setup(
    packages=[
        *find_packages(include=["mlc_ext*"]),
        DETECTORS,
        *(f"{DETECTORS}.{name}" for name in find_packages("detectors")),
    ],
    package_dir={DETECTORS: "detectors"},
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExt, "build_py": BuildPy, "develop": Develop},
    # pyproject.toml's key for it has one form before setuptools 77 and another one since
    **{"license_expression" if SETUPTOOLS >= 77 else "license": "Apache-2.0"},
)
