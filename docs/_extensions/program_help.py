"""``.. program-help:: PROGRAM``: what `mlc-ext PROGRAM --help` prints, or `mlc-ext --help` without an argument."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from unittest import mock

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from mlc_ext.detectors import cli


def help_of(*program: str) -> str:
    """The text, 88 columns wide."""
    printed = io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS="88"), mock.patch.object(sys, "argv", ["mlc-ext", *program, "--help"]):
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            cli.main()
    return printed.getvalue()


class ProgramHelp(SphinxDirective):
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        text = help_of(*self.arguments)
        block = nodes.literal_block(text, text, language="text")
        return [block]


class Programs(SphinxDirective):
    """``.. programs::``: a section for every program of `mlc-ext`."""

    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for name in cli.PROGRAMS:
            section = nodes.section(ids=[f"mlc-ext-{name}"], names=[f"mlc-ext {name}"])
            text = help_of(name)
            section += [nodes.title("", f"mlc-ext {name}"), nodes.literal_block(text, text, language="text")]
            found.append(section)
        return found


def setup(app: Sphinx) -> dict:
    app.add_directive("program-help", ProgramHelp)
    app.add_directive("programs", Programs)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
