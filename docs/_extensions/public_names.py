"""``.. public-names:: GROUP``: the API entries of one group of `mlc_ext.__all__`, so that a new name needs no page."""

from __future__ import annotations

import inspect

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

import mlc_ext

GROUPS = {
    "method": ("mlc_ext.mutual_labeling", "mlc_ext.config"),
    "assigners": ("mlc_ext.assignment", "mlc_ext.assigners", "mlc_ext.sampling"),
    "losses": ("mlc_ext.losses",),
    "divergence": ("mlc_ext.divergence", "mlc_ext.prediction_file"),
    "operators": ("mlc_ext.ops",),
    "package": ("mlc_ext",),
}
"""Modules of each group; a name belongs to the group of the longest module that its own one is or lies in."""

CONSTANTS = {"__version__": "Version of the package, a string."}
"""Names that have no docstring of their own."""


def group_of(module: str) -> str:
    """The group of what ``module`` defines."""
    matches = [(len(m), group) for group, ms in GROUPS.items() for m in ms if f"{module}.".startswith(f"{m}.")]
    return max(matches)[1]


def public_names() -> dict[str, list[str]]:
    """The names of `mlc_ext.__all__` by group, sorted: classes first."""
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in sorted(mlc_ext.__all__):
        value = getattr(mlc_ext, name)
        found[group_of(getattr(value, "__module__", "mlc_ext"))].append(name)
    return found


def entry(name: str) -> list[str]:
    """The directive that documents a name."""
    value = getattr(mlc_ext, name)
    if name in CONSTANTS:
        return [f".. py:data:: mlc_ext.{name}", "", f"   {CONSTANTS[name]}", ""]
    kind = "autoclass" if inspect.isclass(value) else "autofunction" if callable(value) else "autodata"
    return [f".. {kind}:: mlc_ext.{name}", ""]


class PublicNames(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        names = public_names()[self.arguments[0]]
        lines = [line for name in names for line in entry(name)]
        node = nodes.container()
        self.state.nested_parse(StringList(lines, "mlc_ext.__all__"), 0, node)
        return node.children


def check_complete(app: Sphinx, env) -> None:
    """Raises for a public name that no page documents."""
    documented = {name for name, *_ in env.get_domain("py").get_objects()}
    missing = [name for name in mlc_ext.__all__ if f"mlc_ext.{name}" not in documented]
    if missing:
        raise ExtensionError(f"no page documents mlc_ext.{', mlc_ext.'.join(missing)}")


def setup(app: Sphinx) -> dict:
    app.add_directive("public-names", PublicNames)
    app.connect("env-check-consistency", check_complete)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
