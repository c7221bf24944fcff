"""Importing mlc_ext: the errors when the operators are missing or unusable, and the build on first import."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

import mlc_ext

ROOT = Path(__file__).resolve().parents[2]
USE = """
import mlc_ext, torch
print(mlc_ext.build_info()["module"], mlc_ext.box_iou(torch.ones(1, 4), torch.ones(1, 4)))
"""
# An editable install finds mlc_ext._C in the source tree for a copy of the package that has none.
NOT_EDITABLE = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f).lower()]\n"


def start(code: str, path: Path, **env: str | None) -> subprocess.Popen:
    """`python -c code` away from the source tree, with `path` first on sys.path; None unsets a variable."""
    merged = {**os.environ, "PYTHONPATH": str(path), "MLC_EXT_JIT": None, "OMP_NUM_THREADS": "1", **env}
    return subprocess.Popen(
        [sys.executable, "-c", NOT_EDITABLE + code],
        env={key: value for key, value in merged.items() if value is not None},
        cwd=path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, timeout: float = 60) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def run(code: str, path: Path, timeout: float = 60, **env: str | None) -> tuple[int, str, str]:
    return finish(start(code, path, **env), timeout)


@pytest.fixture
def unbuilt(tmp_path: Path) -> Path:
    """A folder with mlc_ext's Python files alone."""
    ignore = shutil.ignore_patterns("*.so", "__pycache__", "csrc")
    shutil.copytree(ROOT / "mlc_ext", tmp_path / "mlc_ext", ignore=ignore)
    return tmp_path


def fake_module(folder: Path, name: str, text: str) -> None:
    (folder / "mlc_ext" / f"{name}.py").write_text(text)


class TestUnusableBuild:
    def test_missing_build_says_what_to_run(self, unbuilt):
        status, _, err = run("import mlc_ext", unbuilt)
        assert status == 1
        assert "ImportError: mlc_ext is not built: its compiled operators (mlc_ext._C)" in err
        assert "python setup.py develop" in err and "MLC_EXT_JIT=1" in err
        assert "During handling" not in err, "one error, not a chain"

    def test_unloadable_build(self, unbuilt):
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        (unbuilt / "mlc_ext" / f"_C{suffix}").write_bytes(b"not a library")
        status, _, err = run("import mlc_ext", unbuilt)
        assert status == 1 and "python setup.py develop" in err and f"_C{suffix}" in err

    def test_build_of_another_version(self, unbuilt):
        fake_module(unbuilt, "_C", "version = '0.0.1'")
        status, _, err = run("import mlc_ext", unbuilt)
        assert status == 1
        assert f"built from version 0.0.1, but the Python files are {mlc_ext.__version__}" in err

    def test_broken_cuda_module_is_not_passed_over(self, unbuilt):
        fake_module(unbuilt, "_C", "")
        fake_module(unbuilt, "_C_cuda", "raise ImportError('libcudart.so.13: cannot open shared object file')")
        status, _, err = run("import mlc_ext", unbuilt)
        assert status == 1 and "(mlc_ext._C_cuda) cannot be used (libcudart.so.13" in err

    def test_missing_dependency_of_a_module_is_not_called_a_missing_build(self, unbuilt):
        fake_module(unbuilt, "_C", "import no_such_dependency")
        status, _, err = run("import mlc_ext", unbuilt)
        assert status == 1 and "No module named 'no_such_dependency'" in err


class TestJit:
    def test_without_sources(self, unbuilt):
        status, _, err = run("import mlc_ext", unbuilt, MLC_EXT_JIT="1")
        assert status == 1 and "MLC_EXT_JIT=1 needs the C++ sources; looked in" in err and str(unbuilt / "csrc") in err

    def test_without_compiler(self, tmp_path):
        env = {"MLC_EXT_JIT": "1", "MLC_EXT_CACHE": str(tmp_path), "CXX": "/nonexistent/c++"}
        status, _, err = run("import mlc_ext", ROOT, **env)
        assert status == 1 and err.splitlines()[-1] == (
            "ImportError: MLC_EXT_JIT=1: mlc_ext_C cannot be compiled: no C++ compiler: /nonexistent/c++ was not found "
            "(on Debian: apt-get install g++; or set CXX)"
        )

    def test_cache_key_follows_sources_and_environment(self, tmp_path, monkeypatch):
        from mlc_ext import _jit

        csrc = tmp_path / "csrc"
        shutil.copytree(ROOT / "csrc", csrc)
        first = _jit.cache_dir(csrc)
        assert _jit.cache_dir(csrc) == first
        with open(csrc / "otsu.h", "a") as header:
            header.write("// changed\n")
        second = _jit.cache_dir(csrc)
        monkeypatch.setenv("CXX", "another-compiler")
        third = _jit.cache_dir(csrc)
        monkeypatch.setenv("MLC_EXT_CACHE", str(tmp_path / "elsewhere"))
        by_gpu = {_jit.cache_dir(csrc, architectures).name for architectures in ("8.0", "9.0")}
        assert len({first.name, second.name, third.name} | by_gpu) == 5
        assert _jit.cache_dir(csrc) == tmp_path / "elsewhere" / third.name

    @pytest.mark.slow
    def test_killed_build_then_two_processes_then_cache(self, tmp_path):
        env = {"MLC_EXT_JIT": "1", "MLC_EXT_CACHE": str(tmp_path), "MAX_JOBS": "2"}
        env |= {"MLC_EXT_CPU_ONLY": "1", "FORCE_CUDA": ""}

        # A build that is killed leaves torch's lock file behind, on which torch itself would wait for ever.
        killed = start(USE, ROOT, **env)
        deadline = time.monotonic() + 60
        while not (locks := list(tmp_path.glob("*/cpu/lock"))):
            assert killed.poll() is None and time.monotonic() < deadline, "the build did not start"
            time.sleep(0.05)
        os.killpg(killed.pid, signal.SIGKILL)
        finish(killed)
        (stale,) = locks
        assert stale.exists()

        # Two at once: one builds, the other waits for it, both work.
        processes = [start(USE, ROOT, **env) for _ in range(2)]
        results = [finish(process, timeout=400) for process in processes]
        assert [status for status, _, _ in results] == [0, 0], results
        assert all("mlc_ext_C.so" in out and "tensor([[0.]])" in out for _, out, _ in results)
        assert sum("mlc_ext: compiling" in err for _, _, err in results) == 1
        assert not stale.exists()

        # A finished build needs neither ninja nor a compiler, and no lock file stops it.
        stale.touch()
        status, out, err = run(USE, ROOT, **env, PATH="")
        assert status == 0 and "mlc_ext_C.so" in out, err
        assert "compiling" not in err
