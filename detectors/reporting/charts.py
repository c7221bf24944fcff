"""How charts look, and their files; matplotlib is the extra [report]."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runs.files import check_writable, writing

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which color-blind readers can distinguish."""

STYLES = ("-", "--", ":", "-.")
"""Of lines; the next one where the colors are used up."""

_MAX_NAME = 40
_LINE = 0.19
"""Inches of a legend's line."""
_LEGEND = {"ncols": 1, "frameon": False, "fontsize": 8, "labelspacing": 0.2, "borderpad": 0}


@dataclass
class Chart:
    """A drawing as a PNG."""

    file: str
    """Name of the PNG."""
    text: str
    """What it shows, for those who do not see it."""
    png: bytes

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    def save(self, folder: Path) -> None:
        """Writes the PNG; OSError names the file."""
        with writing(folder / self.file):
            (folder / self.file).write_bytes(self.png)


def require_matplotlib() -> None:
    """ImportError that names what to install where matplotlib is absent."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(f"the charts need matplotlib (pip install mlc-ext[report]): {error}") from error


def charts_folder(page: Path) -> Path:
    """The folder of the PNG files of an HTML page."""
    return page.with_name(f"{page.stem}_charts")


def check_page(page: Path) -> None:
    """OSError if an HTML page, or its charts, cannot be written: tried before the work."""
    if page.is_dir():
        raise IsADirectoryError(f"--out must be a file, {page} is a folder")
    check_writable(page)
    check_writable(charts_folder(page) / "chart.png")


def line_style(run: int) -> dict[str, str]:
    """Color and dashes of run number `run`, the same in all charts."""
    return {"color": COLORS[run % len(COLORS)], "linestyle": STYLES[run // len(COLORS) % len(STYLES)]}


def legend_name(name: str, most: int = _MAX_NAME) -> str:
    """A name as matplotlib may have it: it hides names that begin with _, and sets what stands between $. What its font
    lacks becomes ?. Of more than ``most`` characters the last are left."""
    name = "".join(c if c.isprintable() and ord(c) in _drawn_characters() else "?" for c in name)
    name = name if len(name) <= most else "..." + name[3 - most :]
    return (" " + name if name.startswith("_") else name).replace("$", r"\$")


@functools.cache
def _drawn_characters() -> frozenset[int]:
    """Those of the font that matplotlib brings along and draws all charts with."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))).get_charmap())


@contextlib.contextmanager
def drawing(file: str, text: str, charts: list[Chart], *, height: float = 2.6, grid: bool = True) -> Iterator[Any]:
    """Within, the axes of a chart that is appended to ``charts`` at the end.

    Its looks do not depend on the user's matplotlibrc; the legend of what has a label stands below it.
    """
    with _figure(height) as figure:
        axes = figure.subplots()
        yield axes
        if grid:
            axes.grid(alpha=0.3)
            axes.set_axisbelow(True)
        handles, names = axes.get_legend_handles_labels()
        if handles:
            figure.set_figheight(height + _LINE * len(handles))
            figure.legend(handles, names, loc="outside lower left", **_LEGEND)
        charts.append(Chart(file, text, _png(figure)))


def legend_chart(lines: Sequence[tuple[str, dict[str, Any]]]) -> Chart:
    """The legend of several charts: (name, looks of its line) of each entry."""
    from matplotlib.lines import Line2D

    with _figure(0.1 + _LINE * len(lines)) as figure:
        handles = [Line2D([], [], label=name, **looks) for name, looks in lines]
        figure.legend(handles=handles, loc="center left", **_LEGEND)
        named = ", ".join(name.strip().replace(r"\$", "$") for name, _ in lines)
        return Chart("legend.png", f"legend: {named}", _png(figure))


@contextlib.contextmanager
def _figure(height: float) -> Iterator[Any]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "font.size": 9, "axes.titlesize": 10}):
        yield Figure(figsize=(4.2, height), dpi=160, layout="constrained")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def thinned(x: Sequence[float], y: Sequence[float], most: int = 200) -> tuple[list[float], list[float]]:
    """A curve of many points as the means of up to ``most`` runs of neighbors."""
    if len(x) <= most:
        return list(x), list(y)
    edges = [len(x) * k // most for k in range(most + 1)]
    parts = [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return [sum(x[p]) / len(x[p]) for p in parts], [sum(y[p]) / len(y[p]) for p in parts]
