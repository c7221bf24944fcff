#!/usr/bin/env bash
# The operators' tests on builds with AddressSanitizer + UndefinedBehaviorSanitizer, then with ThreadSanitizer (gcc).
# Only mlc_ext is instrumented; Python and torch are not, so their leaks are not looked for. For ThreadSanitizer the
# loops run on four std::threads (tools/std_thread_parallel_for.cpp).
# usage: sanitize.sh [python of the environment that has torch] [address | thread | all] [pytest arguments...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
python=$(realpath -s "${1:-.venv/bin/python}")
which=${2:-all}
shift $(($# < 2 ? $# : 2))
export PATH="$(dirname "$python"):$PATH"
cxx=${CXX:-g++}
operators=(segmented_otsu mutual_labels box_iou paired_box_iou match_boxes topk_alignment rescored_nms iou_nms nms_grid
  segmented_spearman sigmoid_focal_loss iou_loss op_edges errors)
tests=()
for name in "${operators[@]}"; do
  [[ -e tests/ops/test_$name.py ]] && tests+=("tests/ops/test_$name.py")
done
((${#tests[@]})) || { echo "no operator tests found" >&2; exit 1; }

library() { realpath "$("$cxx" -print-file-name="$1")"; }

build() {  # build SANITIZER -> build/sanitize-NAME/mlc_ext with its own _C
  local folder=build/sanitize-${1%%,*}
  echo "== building with -fsanitize=$1"
  MLC_EXT_SANITIZE=$1 MLC_EXT_CPU_ONLY=1 CC=$cxx CXX=$cxx "$python" setup.py -q build --build-lib "$folder" > "$folder.log" 2>&1 ||
    { tail -40 "$folder.log" >&2; exit 1; }
}

run() {  # run FOLDER PRELOAD pytest-arguments...
  local folder=$1 preload=$2
  shift 2
  PYTHONPATH=$root/$folder LD_PRELOAD=$preload OMP_NUM_THREADS=1 PYTHONMALLOC=malloc "$python" -c '
import sys
sys.path[:] = [p for p in sys.path if p]  # not the source tree
import mlc_ext, pytest
assert "-fsanitize" in mlc_ext.build_info()["flags"], mlc_ext.__file__
sys.exit(pytest.main(sys.argv[1:]))' -q --capture=sys -p no:cacheprovider -p no:xdist -m "not slow" "$@"
}

mkdir -p build
if [[ $which == all || $which == address ]]; then
  build address,undefined
  # libstdc++ too: its exceptions must be there when ASan looks for them
  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
    run build/sanitize-address "$(library libasan.so) $(library libstdc++.so)" "${tests[@]}" "$@"
fi
if [[ $which == all || $which == thread ]]; then
  build thread
  "$cxx" -O1 -g -fPIC -shared -fsanitize=thread -o build/std_thread_parallel_for.so tools/std_thread_parallel_for.cpp
  TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1" \
    run build/sanitize-thread "$(library libtsan.so) $(library libstdc++.so) $root/build/std_thread_parallel_for.so" \
    "${tests[@]}" "$@"
fi
