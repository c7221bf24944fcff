"""HTML that needs nothing else: no network, no fonts, no files beside it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..printable import printable
from .charts import Chart

_HERE = Path(__file__).parent

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser itself refuses every request."""


def text(value: object) -> str:
    """A value for HTML's text and quoted attributes; what does not print becomes ?."""
    return html.escape(printable(str(value)), quote=True)


def document(title: str, sections: Sequence[tuple[str, str, str]], script: str = "", legend: str = "") -> str:
    """A page in ASCII alone.

    Args:
        title: not HTML. sections: (id, title, content) of each; both texts are HTML. script: JavaScript.
        legend: HTML that stands above the sections.
    """
    script = (_HERE / "wide_tables.js").read_text(encoding="utf-8") + script
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{name}</h2>{content}</section>' for key, name, content in sections)
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{text(title)}</title>
<style>{(_HERE / "page.css").read_text(encoding="utf-8")}</style></head>
<body><header><h1>{text(title)}</h1><nav aria-label="sections">{links}</nav></header>
<main>{legend}{body}</main>
<script>{script}</script></body></html>
"""
    return page.encode("ascii", "xmlcharrefreplace").decode("ascii")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML; the first of a row names it. Wide tables scroll within their own box."""
    top = "".join(f'<th scope="col">{cell}</th>' if cell else "<td></td>" for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def figure(uri: str, alt: str, caption: str = "") -> str:
    """A picture; the caption is HTML."""
    caption = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure><img src="{uri}" alt="{text(alt)}">{caption}</figure>'


def figures(charts: Sequence[Chart]) -> str:
    if not charts:
        return ""
    return f'<div class="charts">{"".join(figure(chart.uri, chart.text) for chart in charts)}</div>'
