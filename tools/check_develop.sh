#!/usr/bin/env bash
# `python setup.py develop` installs the source tree and leaves torch, and every other package, as it was.
# usage: check_develop.sh [python of the environment that has torch]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
python=$(realpath -s "${1:-.venv/bin/python}")
export PATH="$(dirname "$python"):$PATH"

packages() { "$python" -m pip --disable-pip-version-check list --format=freeze --exclude mlc-ext --exclude mlc_ext; }
before=$(packages)
"$python" -m pip uninstall -qq -y mlc-ext
"$python" setup.py -q develop
diff <(echo "$before") <(packages) || { echo "setup.py develop changed other packages" >&2; exit 1; }
cd /
"$python" "$root/tools/smoke.py" "$root"
