"""Links to Markdown files outside docs/ become links to the page that includes the file, where there is one.

The sources so keep the links that work in a checkout.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

_INCLUDE = re.compile(r"^```\{include\} (\.\./\S+)", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#:\s]+\.md)\)")


def included_files(docs: Path) -> dict[Path, str]:
    """File outside ``docs`` -> the page that includes it."""
    return {
        (docs / target).resolve(): page.name
        for page in sorted(docs.glob("*.md"))
        for target in _INCLUDE.findall(page.read_text())
    }


def redirect(text: str, folder: Path, pages: dict[Path, str]) -> str:
    """``text`` of a file in ``folder``, its links to the files of ``pages`` replaced."""

    def replaced(match: re.Match) -> str:
        page = pages.get((folder / match[1]).resolve())
        return match[0] if page is None else f"](/{page})"

    return _LINK.sub(replaced, text)


def setup(app: Sphinx) -> dict:
    docs = Path(app.srcdir)
    pages = included_files(docs)

    def source_read(app: Sphinx, docname: str, source: list[str]) -> None:
        source[0] = redirect(source[0], docs / os.path.dirname(docname), pages)

    def include_read(app: Sphinx, path: Path, parent: str, source: list[str]) -> None:
        source[0] = redirect(source[0], (docs / path).resolve().parent, pages)

    app.connect("source-read", source_read)
    app.connect("include-read", include_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
