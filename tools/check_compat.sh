#!/usr/bin/env bash
# A release of torch is supported if this passes: in an environment of its own, with that torch and its torchvision, the
# package is built by pip, by `setup.py develop`, by JIT and by CMake, each build is loaded, and the operators' tests
# pass. With a CUDA build of torch and nvcc the CUDA module is built too, for one architecture; no GPU is needed.
# The environment and a copy of the sources stay in .cache/compat for the next call.
# usage: check_compat.sh TORCH_VERSION [PYTHON] [--cpu-only]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=$1
python=${2:-python3}
place=$PWD/.cache/compat
export MLC_GOLDEN_DIR=${MLC_GOLDEN_DIR:-$PWD/../shared/golden}
environment=$place/torch-$version
tree=$place/tree-$version

step() { printf '== %s\n' "$*"; }

step "environment of torch $version"
if [[ ! -e $environment/.complete ]]; then
  "$python" -m venv "$environment"
  "$environment/bin/python" -m pip --disable-pip-version-check install -qq "torch==$version" torchvision \
    'setuptools>=77' ninja numpy scipy pycocotools pillow pyyaml tqdm pytest pytest-xdist hypothesis scikit-image 'cmake>=3.25'
  touch "$environment/.complete"
fi
export PATH="$environment/bin:$PATH"
python=$environment/bin/python
"$python" - << 'END'
import platform, torch
from importlib.metadata import version

print(f"python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
      f"torchvision {version('torchvision')}, setuptools {version('setuptools')}")
END

cuda=0
if [[ ${3:-} == --cpu-only ]]; then
  export MLC_EXT_CPU_ONLY=1
elif "$python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)' && command -v nvcc > /dev/null; then
  cuda=1
  export FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0}
else
  step "without the CUDA module: no CUDA build of torch, or no nvcc"
fi
unset MLC_EXT_JIT
export MAX_JOBS=${MAX_JOBS:-2} MLC_EXT_CACHE=$place/jit-$version

# A copy: modules built for other releases lie in this tree.
mkdir -p "$tree"
find "$tree" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
  [[ -e $file ]] && printf '%s\0' "$file"
done | tar --null -T - -cf - | tar -xf - -C "$tree"
cd "$tree"

loads() {  # folder [--jit]
  (cd / && "$python" "$tree/tools/smoke.py" "$@" && "$python" -c "
import mlc_ext
info = mlc_ext.build_info()
print(info)
assert info['cuda'] == bool($cuda), info")
}

step "pip install"
"$python" -m pip --disable-pip-version-check uninstall -qq -y mlc-ext
"$python" -m pip --disable-pip-version-check install -qq --no-build-isolation --no-deps .
loads "$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"

step "JIT"
MLC_EXT_JIT=1 loads "$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')" --jit

step "setup.py develop"
"$python" -m pip --disable-pip-version-check uninstall -qq -y mlc-ext
"$python" setup.py -q develop > "$place/develop-$version.log" 2>&1 || { tail -50 "$place/develop-$version.log"; exit 1; }
loads "$tree"

step "CMake"
rm -rf build/cmake
cmake -S . -B build/cmake -DPython3_EXECUTABLE="$python" -DMLC_WITH_CUDA=$cuda > /dev/null
cmake --build build/cmake --parallel "$MAX_JOBS" > "$place/cmake-$version.log" 2>&1 ||
  { tail -50 "$place/cmake-$version.log"; exit 1; }
ctest --test-dir build/cmake --output-on-failure

step "the operators' tests"
unset FORCE_CUDA  # tests of the build itself set it
OMP_NUM_THREADS=1 "$python" -m pytest -q -n "${JOBS:-2}" -m "not slow" -p no:cacheprovider \
  tests/ops tests/method tests/tools/test_{build,load}.py
step "torch $version: passed"
