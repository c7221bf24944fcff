"""The tests of other libraries' detectors are skipped, with the reason, where the library does not import."""

import contextlib
import importlib

import pytest


def _import_error(package: str) -> str | None:
    with contextlib.suppress(ImportError):
        importlib.import_module("mlc_ext.integrations.mmcv_lite")
    try:
        importlib.import_module(package)
    except Exception as error:  # torchvision beside a torch that it is not built for raises RuntimeError
        return f"{package} does not import: {type(error).__name__}: {error}".splitlines()[0]
    return None


class _SkippedModule(pytest.Module):
    def collect(self):
        pytest.skip(self.reason, allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    for prefix, package in (("test_torchvision", "torchvision"), ("test_mmdet", "mmdet.models")):
        if module_path.name.startswith(prefix) and (reason := _import_error(package)):
            module = _SkippedModule.from_parent(parent, path=module_path)
            module.reason = reason
            return module
    return None
