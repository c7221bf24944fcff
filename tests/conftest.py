"""What every test shares: hypothesis profiles and the devices that operators are tested on.

HYPOTHESIS_PROFILE=long    10 000 examples a property instead of 60
MLC_FAIL_WITHOUT_CUDA=1    a run that is meant for a GPU fails where it would have skipped its GPU tests
MLC_LEAVE_OUT_TESTS=1      modules whose packages are not installed are left out, and named, instead of failing
"""

import os
import shutil

import pytest
import torch
from optional_packages import left_out

import mlc_ext

_LEFT_OUT = left_out() if os.environ.get("MLC_LEAVE_OUT_TESTS") == "1" else {}
collect_ignore = list(_LEFT_OUT)


def pytest_terminal_summary(terminalreporter) -> None:
    for name, packages in _LEFT_OUT.items():
        terminalreporter.write_line(f"left out: {name} needs {', '.join(sorted(packages))}")


def _load_hypothesis_profile() -> None:
    from hypothesis import HealthCheck, settings

    slow_machines = [HealthCheck.too_slow, HealthCheck.data_too_large]
    settings.register_profile(
        "fast",
        max_examples=60,
        deadline=None,
        derandomize="CI" in os.environ,
        suppress_health_check=slow_machines,
    )
    settings.register_profile("long", max_examples=10_000, deadline=None, suppress_health_check=slow_machines)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


try:
    _load_hypothesis_profile()
except ModuleNotFoundError:
    if os.environ.get("MLC_LEAVE_OUT_TESTS") != "1":
        raise


def why_no_cuda() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA device"
    if mlc_ext._C_cuda is None:
        return "mlc_ext._C_cuda is not built"
    return None


_CUDA = pytest.param("cuda", marks=pytest.mark.cuda)


def _usable(device: str) -> str:
    if device == "cuda" and (reason := why_no_cuda()):
        if os.environ.get("MLC_FAIL_WITHOUT_CUDA") == "1":
            pytest.fail(f"MLC_FAIL_WITHOUT_CUDA=1, but {reason}")
        pytest.skip(reason)
    return device


@pytest.fixture(scope="session", params=["cpu", _CUDA])
def device(request) -> str:
    """Every device in turn. Session scope: hypothesis shares it between the examples of a property."""
    return _usable(request.param)


@pytest.fixture(scope="session", params=[_CUDA])
def cuda(request) -> str:
    """The GPU alone, for what a CPU has not."""
    return _usable(request.param)


@pytest.fixture(scope="module", autouse=True)
def remove_folders(request, tmp_path_factory):
    """Removes the temporary folders of a module's own fixtures after its last test, unless a test of it failed: all
    of them together take 25 GB."""
    base, failed = tmp_path_factory.getbasetemp(), request.session.testsfailed
    before = set(base.iterdir())
    yield
    if request.session.testsfailed == failed:
        for folder in set(base.iterdir()) - before:
            if not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def in_folder(folder, monkeypatch, threads):
    """Works in the ``folder`` of the test's module, and undoes a run's number of threads."""
    monkeypatch.chdir(folder)


@pytest.fixture
def threads():
    """torch.set_num_threads, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
