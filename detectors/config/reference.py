"""The table of all settings, made from the dataclasses and the docstrings after their fields."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from typing import NamedTuple

from .settings import Config


class Setting(NamedTuple):
    """A setting as it stands in the source."""

    section: str
    name: str
    type: str
    default: str
    description: str
    """Empty without a docstring."""


def all_settings() -> list[Setting]:
    """Every setting, section by section."""
    config = Config()
    found = []
    for section in dataclasses.fields(config):
        kind = type(getattr(config, section.name))
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
        for node, after in zip(body, [*body[1:], None], strict=True):
            if not isinstance(node, ast.AnnAssign):
                continue
            found.append(
                Setting(
                    section.name,
                    ast.unparse(node.target),
                    ast.unparse(node.annotation).replace(" | ", " or "),
                    ast.unparse(node.value),
                    _docstring(after),
                )
            )
    return found


def _docstring(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def settings_markdown() -> str:
    """A Markdown section with a table for every section of settings."""
    lines: list[str] = []
    section = None
    for setting in all_settings():
        if setting.section != section:
            section = setting.section
            lines += ["", f"## {section}", "", "| Setting | Type | Default | Meaning |", "| --- | --- | --- | --- |"]
        meaning = setting.description.replace("|", "\\|")
        lines.append(f"| `{section}.{setting.name}` | {setting.type} | `{setting.default}` | {meaning} |")
    return "\n".join(lines[1:]) + "\n"


def settings_text() -> str:
    """The settings as text for a terminal."""
    parts = []
    for setting in all_settings():
        parts.append(f"{setting.section}.{setting.name} = {setting.default}  ({setting.type})")
        parts.append(textwrap.indent(textwrap.fill(setting.description, 96), "    "))
    return "\n".join(parts)
