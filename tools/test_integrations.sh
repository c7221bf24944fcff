#!/usr/bin/env bash
# The tests of mlc_ext.integrations, in an environment of their own with the libraries that they are for. It stays in
# .cache/integrations for the next call (about 6 GB). The package is built and installed there, without CUDA.
# usage: test_integrations.sh [PYTHON] [-- pytest arguments]
#   MLC_INTEGRATIONS_ENV=DIR  use this environment, which has the packages already
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=python3
if [[ $# -gt 0 && $1 != -- ]]; then
  python=$1
  shift
fi
[[ ${1:-} != -- ]] || shift
environment=${MLC_INTEGRATIONS_ENV:-$PWD/.cache/integrations}

if [[ -z ${MLC_INTEGRATIONS_ENV:-} && ! -e $environment/.complete ]]; then
  "$python" -m venv "$environment"
  "$environment/bin/python" -m pip --disable-pip-version-check install -qq torch==2.11.0 torchvision==0.26.0 \
    'setuptools>=77,<81' wheel ninja numpy pillow pycocotools pytest hypothesis
  # mmcv-lite's setup.py needs pkg_resources, which setuptools 81 and later do not have
  "$environment/bin/python" -m pip --disable-pip-version-check install -qq --no-build-isolation \
    mmcv-lite==2.1.0 mmengine==0.10.7 mmdet==3.3.0
  touch "$environment/.complete"
fi
export PATH="$environment/bin:$PATH"
MLC_EXT_CPU_ONLY=1 python -m pip --disable-pip-version-check install -qq --no-build-isolation --no-deps .
# pytest itself, not `python -m pytest`, which would import the source tree's mlc_ext
OMP_NUM_THREADS=1 pytest -q -p no:cacheprovider tests/integrations "$@"
