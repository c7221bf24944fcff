"""Which packages a test module needs and this environment lacks, without importing the module."""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent


@functools.cache
def _top_level_imports(path: Path) -> tuple[str, ...]:
    """Dotted names that a module imports when it is imported; those under `try` are optional."""
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(dict.fromkeys(names))


@functools.cache
def _files(name: str, folder: Path) -> tuple[Path, ...]:
    """The project's own files that importing a dotted name runs, in a module of ``folder``, where pytest looks too."""
    if name.startswith("mlc_ext.detectors"):  # where that package lies in the source tree
        name = name.removeprefix("mlc_ext.")
    for root in (folder, TESTS, ROOT):
        parts, found = name.split("."), []
        for depth in range(1, len(parts) + 1):
            stem = root.joinpath(*parts[:depth])
            found += [p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()]
        if found:
            return tuple(found)
    return ()


@functools.cache
def installed(package: str) -> bool:
    return package in sys.stdlib_module_names or importlib.util.find_spec(package) is not None


def missing_packages(path: Path) -> frozenset[str]:
    """Top-level names that `path`, or a file of the project that it imports, needs and that cannot be found."""
    seen, todo, missing = set(), [path], set()
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        for name in _top_level_imports(current):
            root = name.split(".")[0]
            if own := _files(name, current.parent):
                todo += own
            elif not _files(root, current.parent) and not installed(root):
                missing.add(root)
    return frozenset(missing)


def left_out() -> dict[str, frozenset[str]]:
    """{path of a test module from here: packages it lacks}."""
    modules = sorted(TESTS.rglob("test_*.py"))
    return {path.relative_to(TESTS).as_posix(): lacks for path in modules if (lacks := missing_packages(path))}
