"""What `import mlc_ext` offers: every public name exists and is documented, and torch and numpy are all it needs."""

import inspect
import subprocess
import sys

import pytest

import mlc_ext

FUNCTIONS = [name for name in mlc_ext.__all__ if inspect.isfunction(getattr(mlc_ext, name))]
CLASSES = [name for name in mlc_ext.__all__ if inspect.isclass(getattr(mlc_ext, name))]


def test_all_is_sorted_and_complete():
    assert mlc_ext.__all__ == sorted(mlc_ext.__all__)
    public = {
        name
        for name, value in vars(mlc_ext).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert public | {"__version__"} == set(mlc_ext.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_typed_and_documented(name):
    function = getattr(mlc_ext, name)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())
    doc = inspect.getdoc(function)
    assert doc and (not signature.parameters or "Args:" in doc or ":func:" in doc), doc
    for parameter in signature.parameters if "Args:" in doc else ():
        assert parameter in doc, f"{name} does not document {parameter}"


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_documented(name):
    kind = getattr(mlc_ext, name)
    assert kind.__doc__ and not kind.__doc__.startswith(f"{name}(")  # not dataclass's own
    for member, value in vars(kind).items():
        if inspect.isfunction(value) and not member.startswith("_"):
            assert value.__doc__, f"{name}.{member}"


def test_torch_and_numpy_are_enough():
    """Also where the packages of the detectors and of the tests are missing, and scipy with them."""
    missing = ("pycocotools", "PIL", "yaml", "tqdm", "scipy", "skimage", "matplotlib", "torchvision")
    code = f"""
import sys
sys.modules.update(dict.fromkeys({missing}))  # None: an import of one of these raises ModuleNotFoundError
import mlc_ext
assert "mlc_ext.detectors" not in sys.modules
assert all(hasattr(mlc_ext, name) for name in mlc_ext.__all__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
