"""What every test shares: hypothesis profiles and the devices that operators are tested on.

HYPOTHESIS_PROFILE=long    10 000 examples a property instead of 60
MLC_FAIL_WITHOUT_CUDA=1    a run that is meant for a GPU fails where it would have skipped its GPU tests
"""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

import mlc_ext

_SLOW_MACHINES = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "fast",
    max_examples=60,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=_SLOW_MACHINES,
)
settings.register_profile("long", max_examples=10_000, deadline=None, suppress_health_check=_SLOW_MACHINES)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


def why_no_cuda() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA device"
    if mlc_ext._C_cuda is None:
        return "mlc_ext._C_cuda is not built"
    return None


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request) -> str:
    """Every device in turn. Session scope: hypothesis shares it between the examples of a property."""
    if request.param == "cuda" and (reason := why_no_cuda()):
        if os.environ.get("MLC_FAIL_WITHOUT_CUDA") == "1":
            pytest.fail(f"MLC_FAIL_WITHOUT_CUDA=1, but {reason}")
        pytest.skip(reason)
    return request.param


@pytest.fixture
def threads():
    """torch.set_num_threads, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
