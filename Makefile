# Everything from a bare machine with Python >= 3.10 and a C++ compiler: `make demo` or `make test`. The first call makes
# .venv and builds; later ones reuse it. No other torch than $(TORCH) is installed: others bring several GB.
PYTHON ?= python3
TORCH ?= 2.13.0
OLDEST_TORCH := 2.11.0
VENV ?= .venv
JOBS ?= 2
DEMO_ARGS ?= --compare --seeds 2
TEST_ARGS ?=
BENCH_ARGS ?=
GROWTH_ARGS ?= --threads 1
OUT ?=
PART ?= 1
GPU_ARGS ?=
COMPAT_ARGS ?=
INTEGRATIONS_ARGS ?= -m "not slow"

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
CMAKE := $(or $(shell command -v cmake),$(VENV)/bin/cmake)
SOURCES := setup.py pyproject.toml mlc_ext/_build_flags.py mlc_ext/_version.py \
  $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
CXX_FILES := $(shell find csrc tests tools benchmarks examples -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
# Workers share the cores: one thread each.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -q

.PHONY: help venv build demo test test-slow lint format docs bench growth cuda-compile oldest-compile compat test-integrations gpu-check cmake wheel develop sanitize clean distclean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.torch  ## make .venv with the one torch

build: $(VENV)/.built  ## compile the operators and install the package in .venv, editable

demo: build  ## train and compare the detectors on small images (DEMO_ARGS=...)
	$(PY) detectors/train.py $(DEMO_ARGS)

test: build  ## the fast tests (TEST_ARGS=...)
	$(PYTEST) -n $(JOBS) -m "not slow" $(TEST_ARGS)

test-slow: build  ## the slow tests
	$(PYTEST) -n $(JOBS) -m slow $(TEST_ARGS)

lint: build  ## ruff, clang-format, mypy --strict on mlc_ext, no circular imports, tables of settings up to date
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_FILES)
	$(PY) -m mypy
	$(PY) tools/import_graph.py detectors mlc_ext
	$(PY) tools/settings_docs.py --check

format: build  ## format Python and C++, write the tables of settings, as lint requires
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CXX_FILES)
	$(PY) tools/settings_docs.py

docs: build  ## the documentation, in build/docs; a warning is an error
	$(PY) -m sphinx -E -W --keep-going -q -b html docs build/docs

bench: build  ## operators against their peers (BENCH_ARGS=...)
	@mkdir -p benchmarks/results
	$(PY) benchmarks/run.py --json benchmarks/results/cpu.json --markdown benchmarks/results/cpu.md $(BENCH_ARGS)

growth: build  ## how the operators' time grows with their sizes, drawn: docs/growth.md (GROWTH_ARGS=...)
	$(PIP) install -qq matplotlib
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) benchmarks/growth.py $(GROWTH_ARGS)

cuda-compile: build  ## compile every .cu with nvcc, warnings are errors; no GPU needed
	$(PY) tools/compile_sources.py --jobs $(JOBS)

oldest-compile: build  ## compile every source, CPU and CUDA, against the headers of the oldest supported torch
	$(PY) tools/compile_sources.py --torch $(OLDEST_TORCH) --jobs $(JOBS)

compat:  ## with the torch of TORCH=2.11.0 (its own environment, 6 GB): build every way, run the operators' tests
	bash tools/check_compat.sh $(TORCH) $(PYTHON) $(COMPAT_ARGS)

test-integrations:  ## the method inside torchvision's and MMDetection's detectors (its own environment, 6 GB); INTEGRATIONS_ARGS="-m slow": its training
	bash tools/test_integrations.sh $(PYTHON) -- $(INTEGRATIONS_ARGS)

# With $(PYTHON), whose torch is the CUDA one: not through .venv, which would get another.
gpu-check:  ## what needs a GPU, results in OUT=DIR; two calls: PART=1, PART=2 (or stages: PART=build,tests)
	@test -n "$(OUT)" || { echo "gpu-check: name a folder for the results: make gpu-check OUT=DIR" >&2; exit 1; }
	$(PYTHON) tools/gpu_check.py --out "$(OUT)" $(GPU_ARGS) $(PART)

cmake: build $(CMAKE)  ## configure, build and ctest the operators without Python, in build/cmake
	$(CMAKE) -S . -B build/cmake -DPython3_EXECUTABLE="$(CURDIR)/$(PY)" -DCMAKE_BUILD_TYPE=Release
	env -u MAKEFLAGS -u MAKELEVEL $(CMAKE) --build build/cmake --parallel $(JOBS)
	$(dir $(CMAKE))ctest --test-dir build/cmake --output-on-failure

wheel: build  ## build a wheel and try it, and an sdist's contents, in a clean environment
	bash tools/check_wheel.sh $(PY)

develop: build  ## `python setup.py develop`, and that it brings no second torch
	bash tools/check_develop.sh $(PY)

sanitize: build  ## the operators' tests under ASan + UBSan, then TSan
	bash tools/sanitize.sh $(PY)

clean:  ## remove what was built, keep .venv
	rm -rf build dist *.egg-info mlc_ext/*.so $(VENV)/.built

distclean: clean  ## remove .venv too
	rm -rf $(VENV)

$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python >= 3.10 is needed, $(PYTHON) is " + sys.version.split()[0] + ": use make PYTHON=python3.x")'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo 'The Python has no venv module: on Debian, apt-get install python3-venv' >&2; exit 1; }
	@command -v "$${CXX:-c++}" > /dev/null || { echo "No C++ compiler ($${CXX:-c++}): on Debian, apt-get install g++, or set CXX" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -qq torch==$(TORCH) 'setuptools>=77' ninja
	@touch $@

# Named again beside the dependencies, torch stays as it is.
$(VENV)/.built: $(VENV)/.torch $(SOURCES)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PIP) install -qq --no-build-isolation torch==$(TORCH) -e '.[test,docs,pretrained]'
	@touch $@

$(VENV)/bin/cmake: | $(VENV)/.torch
	$(PIP) install -qq 'cmake>=3.25'
