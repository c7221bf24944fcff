"""The build: its flags and choices, the built module's build information, and that it keeps to torch's stable ABI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

import mlc_ext
from mlc_ext import _build_flags as flags

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
SCHEMAS = re.findall(r'm\.def\(\s*"(\w+)\(', (CSRC / "library.cpp").read_text())


class TestBuildInfo:
    def test_versions(self):
        info = mlc_ext.build_info()
        assert info["version"] == info["built_version"] == mlc_ext.__version__
        assert info["torch_target_version"] == "0x020b000000000000", "2.11, the oldest supported"
        assert re.match(r"\d+\.\d+", info["built_with_torch"])
        assert info["torch"] == torch.__version__
        assert info["python"] == ".".join(map(str, sys.version_info[:3]))

    def test_compiler_and_flags(self):
        info = mlc_ext.build_info()
        assert info["cxx_standard"] == 201703
        assert re.match(r"(gcc|clang) \d+", info["compiler"])
        assert "-ffp-contract=off" in info["flags"] and "-ffast-math" not in info["flags"]
        assert Path(info["module"]).is_file()

    def test_cuda(self):
        info = mlc_ext.build_info()
        assert info["cuda"] == (mlc_ext._C_cuda is not None)
        if not info["cuda"]:
            assert info["cuda_version"] is None and info["cuda_architectures"] is None


class TestSources:
    def test_every_schema_has_a_cpu_kernel(self):
        assert len(SCHEMAS) >= 7
        for name in SCHEMAS:
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mlc_ext::{name}", "CPU"), name

    def test_one_definition_of_the_schemas(self):
        defining = [p.name for p in CSRC.rglob("*.c*") if "STABLE_TORCH_LIBRARY(" in p.read_text()]
        assert defining == ["library.cpp"]

    def test_every_file_is_built(self):
        built = set(flags.cpu_sources(CSRC)) | set(flags.cuda_sources(CSRC))
        sources = {p for p in CSRC.rglob("*") if p.suffix in {".cpp", ".cu"}}
        assert sources <= built, f"not compiled: {sources - built}"
        assert not any("python" in p.name for p in flags.operator_sources(CSRC)), "CMake builds without Python"

    def test_stable_headers_only(self):
        for path in CSRC.rglob("*"):
            if path.suffix in {".h", ".cpp", ".cu", ".cuh"}:
                text = path.read_text()
                unstable = re.findall(r"#include <(?:ATen|c10|torch/extension|torch/torch|torch/library)[^>]*>", text)
                assert not unstable, f"{path}: {unstable}"

    @pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
    def test_module_needs_no_unstable_symbol_of_torch(self):
        module = mlc_ext.build_info()["module"]
        output = subprocess.check_output(["nm", "-D", "-C", "--undefined-only", module], text=True)
        undefined = [line.split(maxsplit=1)[1] for line in output.splitlines() if " U " in line]
        assert any("aoti_torch_" in symbol for symbol in undefined), "nm lists torch's C functions"
        cxx = [s for s in undefined if re.search(r"\b(at|c10|torch|caffe2)::", s)]
        assert not cxx, f"beyond the stable ABI: {cxx[:5]}"


def fake_program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def toolkit(tmp_path: Path) -> Path:
    """A CUDA toolkit as far as finding it goes."""
    fake_program(tmp_path / "toolkit" / "bin" / "nvcc", "")
    (tmp_path / "toolkit" / "include").mkdir()
    (tmp_path / "toolkit" / "include" / "cuda_runtime.h").touch()
    return tmp_path / "toolkit"


@pytest.fixture
def machine(monkeypatch):
    """A CUDA torch on a machine without a GPU; what is set in the environment and in torch is undone."""
    for name in ("MLC_EXT_CPU_ONLY", "FORCE_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)


@pytest.mark.usefixtures("machine")
class TestCudaHome:
    def test_given(self, toolkit, monkeypatch):
        monkeypatch.setenv("CUDA_HOME", str(toolkit))
        assert flags.cuda_home() == str(toolkit)

    def test_beside_nvcc(self, toolkit, monkeypatch):
        monkeypatch.setenv("PATH", str(toolkit / "bin"))
        assert flags.cuda_home() == str(toolkit)

    def test_nvcc_is_a_wrapper(self, toolkit, tmp_path, monkeypatch):
        """torch takes the wrapper's parent folder, in which there is no cuda.h."""
        wrapper = fake_program(tmp_path / "local" / "bin" / "nvcc", f'echo "#$ TOP={toolkit}/bin/.." >&2')
        monkeypatch.setenv("PATH", str(wrapper.parent))
        assert flags.cuda_home() == str(toolkit)
        assert os.environ["CUDA_HOME"] == cpp_extension.CUDA_HOME == str(toolkit), "torch's build uses it too"

    @pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
    def test_of_this_machine(self):
        assert (Path(flags.cuda_home()) / "include" / "cuda_runtime.h").is_file()


@pytest.mark.usefixtures("machine")
class TestWantsCuda:
    @pytest.fixture(autouse=True)
    def home(self, toolkit, monkeypatch):
        monkeypatch.setenv("CUDA_HOME", str(toolkit))

    def test_nvcc_and_cuda_torch(self):
        assert flags.wants_cuda()
        assert os.environ["TORCH_CUDA_ARCH_LIST"] == flags.DEFAULT_CUDA_ARCH_LIST

    def test_arch_list_is_respected(self, monkeypatch):
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
        assert flags.wants_cuda() and os.environ["TORCH_CUDA_ARCH_LIST"] == "9.0"

    def test_visible_gpus_decide_their_architectures(self, monkeypatch):
        capabilities = [(9, 0), (8, 0), (9, 0)]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: capabilities[i])
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90", "sm_120", "compute_120"])
        assert flags.cuda_architectures() == "8.0;9.0"
        capabilities[:] = [(9, 0), (13, 0)]
        assert flags.wants_cuda() and os.environ["TORCH_CUDA_ARCH_LIST"] == "12.0+PTX;9.0", "newer than torch knows"

    def test_refused(self, monkeypatch):
        monkeypatch.setenv("MLC_EXT_CPU_ONLY", "1")
        assert not flags.wants_cuda()

    def test_something_missing(self, tmp_path, monkeypatch):
        monkeypatch.setenv("CUDA_HOME", str(tmp_path / "empty"))
        assert not flags.wants_cuda()
        monkeypatch.setattr(torch.version, "cuda", None)
        assert not flags.wants_cuda()

    def test_forced(self, tmp_path, monkeypatch):
        monkeypatch.setenv("FORCE_CUDA", "1")
        assert flags.wants_cuda()
        monkeypatch.setenv("CUDA_HOME", str(tmp_path / "empty"))
        with pytest.raises(RuntimeError, match=r"FORCE_CUDA=1, but .* nvcc is None \(CUDA_HOME .*empty\)"):
            flags.wants_cuda()
        monkeypatch.setattr(torch.version, "cuda", None)
        with pytest.raises(RuntimeError, match="built with CUDA None"):
            flags.wants_cuda()

    def test_contradiction(self, monkeypatch):
        monkeypatch.setenv("FORCE_CUDA", "1")
        monkeypatch.setenv("MLC_EXT_CPU_ONLY", "1")
        with pytest.raises(RuntimeError, match="contradict"):
            flags.wants_cuda()

    def test_architectures_for_cmake(self, monkeypatch):
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5;8.0 9.0a;10.0+PTX")
        assert flags.cmake_cuda_architectures() == ["75-real", "80-real", "90a-real", "100"]
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Hopper")
        with pytest.raises(SystemExit, match="'Hopper' has no number"):
            flags.cmake_cuda_architectures()


class TestCompilerProblem:
    def test_none(self):
        assert flags.compiler_problem() is None

    def test_missing(self, monkeypatch):
        monkeypatch.setenv("CXX", "no-such-compiler -O2")
        problem = flags.compiler_problem()
        assert "no-such-compiler was not found" in problem and "\n" not in problem

    def test_too_old(self, tmp_path, monkeypatch):
        script = "echo note >&2; echo \"error: unrecognized option '-std=c++17'\" >&2; exit 1"
        monkeypatch.setenv("CXX", str(fake_program(tmp_path / "old-c++", script)))
        problem = flags.compiler_problem()
        assert problem.endswith("cannot compile C++17: error: unrecognized option '-std=c++17'")

    def test_build_reports_it_alone(self, tmp_path):
        """Not among the lines of a failed build."""
        env = {**os.environ, "CXX": "no-such-compiler"}
        command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(tmp_path)]
        result = subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT)
        assert result.returncode == 1
        lines = [line for line in result.stderr.splitlines() if "arning" not in line and "CUDA runtime" not in line]
        assert lines == [
            "mlc-ext: no C++ compiler: no-such-compiler was not found (on Debian: apt-get install g++; or set CXX)"
        ]


class TestFlags:
    def test_sanitizer(self, monkeypatch):
        assert not any("sanitize" in flag for flag in flags.cxx_flags()) and flags.link_flags() == []
        monkeypatch.setenv("MLC_EXT_SANITIZE", "thread")
        assert "-fsanitize=thread" in flags.cxx_flags() and flags.link_flags() == ["-fsanitize=thread"]
        assert "-ffp-contract=off" in flags.cxx_flags(), "results stay the same"
        monkeypatch.setenv("MLC_EXT_SANITIZE", "memory")
        with pytest.raises(RuntimeError, match="MLC_EXT_SANITIZE must be one of .*got 'memory'"):
            flags.cxx_flags()

    def test_lists_for_cmake_need_no_torch(self, tmp_path):
        (tmp_path / "torch.py").write_text("raise ImportError('not here')")
        script = str(ROOT / "mlc_ext" / "_build_flags.py")
        env = {**os.environ, "PYTHONPATH": str(tmp_path)}

        def ask(kind: str) -> list[str]:
            result = subprocess.run([sys.executable, script, kind], env=env, capture_output=True, text=True, check=True)
            return result.stdout.strip().split(";")

        assert ask("cxx") == flags.CXX_FLAGS
        assert ask("version") == [mlc_ext.__version__]
        assert ask("sources") == [str(p) for p in flags.operator_sources(CSRC)]

    def test_old_setuptools_is_one_line(self, tmp_path):
        (tmp_path / "setuptools").mkdir()
        (tmp_path / "setuptools" / "__init__.py").write_text(
            "__version__ = '59.6.0'\nCommand = find_packages = setup = None"
        )
        (tmp_path / "setuptools" / "command").mkdir()
        (tmp_path / "setuptools" / "command" / "build_py.py").write_text("build_py = None")
        env = {**os.environ, "PYTHONPATH": str(tmp_path)}
        result = subprocess.run(
            [sys.executable, "setup.py", "--version"], env=env, capture_output=True, text=True, cwd=ROOT
        )
        assert result.returncode == 1
        assert result.stderr == ("mlc-ext: setuptools 59.6.0 is too old, 64 is needed: pip install 'setuptools>=77'\n")

    def test_setup_without_torch_says_so(self, tmp_path):
        (tmp_path / "torch.py").write_text("raise ImportError('not here')")
        env = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, str(ROOT / "setup.py"), "--version"]
        result = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 1 and "pip install torch==2.13.0" in result.stderr
        assert "Traceback" not in result.stderr
