#!/usr/bin/env bash
# Builds the sdist and, out of it, the wheel; looks at what they hold; installs the wheel into a clean environment and
# tries it there, compiled and by JIT. The clean environment borrows the dependencies (torch above all) of the given one
# through a .pth file, whose own editable mlc_ext stays invisible: .pth files are not followed from there.
# usage: check_wheel.sh [python of the environment that has torch]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
python=$(realpath -s "${1:-.venv/bin/python}")
export PATH="$(dirname "$python"):$PATH"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p dist
rm -rf dist/*

"$python" setup.py -q sdist --dist-dir dist
tar -xzf dist/*.tar.gz -C "$work"
source_tree=$(echo "$work"/mlc_ext-*/)
for file in $(git ls-files csrc mlc_ext detectors 2> /dev/null || find csrc mlc_ext detectors -name '*.py' -o -name '*.h'); do
  [[ ! -e $file || -e $source_tree/$file ]] || { echo "the sdist lacks $file" >&2; exit 1; }
done

"$python" -m pip wheel -qq --no-build-isolation --no-deps -w dist "$source_tree"
wheel=$(echo dist/*.whl)
"$python" - "$wheel" << 'EOF'
import re
import sys
import zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
strays = [n for n in names if not n.startswith(("mlc_ext/", "mlc_ext-"))]
assert not strays, f"more than the one package mlc_ext in the wheel: {strays[:5]}"
cached = [n for n in names if "__pycache__" in n or "/tests/" in n or n.endswith((".o", ".ninja"))]
assert not cached, f"build litter in the wheel: {cached[:5]}"
libraries = [n for n in names if n.endswith(".so")]
assert len([n for n in libraries if n.startswith("mlc_ext/_C.")]) == 1, f"libraries in the wheel: {libraries}"
needed_files = ("mlc_ext/__init__.py", "mlc_ext/py.typed", "mlc_ext/csrc/library.cpp")
for needed in (*needed_files, "mlc_ext/detectors/cli.py", "mlc_ext/detectors/reporting/viewer.js"):
    assert needed in names, f"the wheel lacks {needed}"
metadata = next(n for n in names if n.endswith(".dist-info/METADATA"))
lines = zipfile.ZipFile(sys.argv[1]).read(metadata).decode().splitlines()
required = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
assert sorted(re.findall(r"Requires-Dist: ([\w-]+)", "\n".join(required))) == ["numpy", "torch"], required
print(f"{sys.argv[1]}: {len(names)} files, {sum(i.file_size for i in zipfile.ZipFile(sys.argv[1]).infolist()) / 1e6:.1f} MB")
EOF

"$python" -m venv "$work/clean"
clean=$work/clean/bin/python
"$clean" -m pip --disable-pip-version-check install -qq --no-deps --no-index "$wheel"
site=$("$clean" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$site/borrowed.pth"

cd "$work"  # away from the source tree
"$work/clean/bin/mlc-ext" --help > /dev/null
"$work/clean/bin/mlc-ext" train --help > /dev/null
"$clean" "$root/tools/smoke.py" "$work/clean"
if [[ ${MLC_CHECK_JIT:-1} == 1 ]]; then
  MLC_EXT_JIT=1 MLC_EXT_CACHE="$work/cache" "$clean" "$root/tools/smoke.py" "$work/clean" --jit
fi
