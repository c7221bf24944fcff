"""The build: its flags and choices, what the built module says of itself, and that it keeps to torch's stable ABI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mlc_ext
from mlc_ext import _build_flags as flags

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.fixture
def cuda_home(tmp_path: Path) -> str:
    """A CUDA toolkit as far as finding nvcc goes."""
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    return str(tmp_path)


class TestWantsCuda:
    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch):
        """A CUDA torch on a machine without a GPU."""
        for name in ("MLC_EXT_CPU_ONLY", "FORCE_CUDA", "TORCH_CUDA_ARCH_LIST"):
            monkeypatch.setenv(name, "")  # what wants_cuda sets is undone with it
            monkeypatch.delenv(name)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def test_nvcc_and_cuda_torch(self, cuda_home):
        assert flags.wants_cuda(cuda_home)
        assert os.environ["TORCH_CUDA_ARCH_LIST"] == flags.DEFAULT_CUDA_ARCH_LIST

    def test_arch_list_is_respected(self, cuda_home, monkeypatch):
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
        assert flags.wants_cuda(cuda_home) and os.environ["TORCH_CUDA_ARCH_LIST"] == "9.0"

    def test_visible_gpu_decides_its_architecture(self, cuda_home, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert flags.wants_cuda(cuda_home) and "TORCH_CUDA_ARCH_LIST" not in os.environ

    def test_refused(self, cuda_home, monkeypatch):
        monkeypatch.setenv("MLC_EXT_CPU_ONLY", "1")
        assert not flags.wants_cuda(cuda_home)

    def test_something_missing(self, cuda_home, tmp_path, monkeypatch):
        assert not flags.wants_cuda(None)
        assert not flags.wants_cuda(str(tmp_path / "empty"))
        monkeypatch.setattr(torch.version, "cuda", None)
        assert not flags.wants_cuda(cuda_home)

    def test_forced(self, cuda_home, monkeypatch):
        monkeypatch.setenv("FORCE_CUDA", "1")
        assert flags.wants_cuda(cuda_home)
        with pytest.raises(RuntimeError, match=r"FORCE_CUDA=1, but .* nvcc is None \(CUDA_HOME None\)"):
            flags.wants_cuda(None)
        monkeypatch.setattr(torch.version, "cuda", None)
        with pytest.raises(RuntimeError, match="built with CUDA None"):
            flags.wants_cuda(cuda_home)

    def test_contradiction(self, cuda_home, monkeypatch):
        monkeypatch.setenv("FORCE_CUDA", "1")
        monkeypatch.setenv("MLC_EXT_CPU_ONLY", "1")
        with pytest.raises(RuntimeError, match="contradict"):
            flags.wants_cuda(cuda_home)


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

    def test_setup_without_torch_says_so(self, tmp_path):
        (tmp_path / "torch.py").write_text("raise ImportError('not here')")
        env = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, str(ROOT / "setup.py"), "--version"]
        result = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 1 and "pip install torch==2.13.0" in result.stderr
        assert "Traceback" not in result.stderr
