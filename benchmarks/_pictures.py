"""Drawing with matplotlib, without a display, into small PNG files."""

from __future__ import annotations

import io
from pathlib import Path

import PIL.Image


def pyplot():
    """matplotlib.pyplot; raises SystemExit that names what to install where it is absent."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("pictures are drawn with matplotlib: pip install matplotlib (or mlc-ext[bench])") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def save(plt, figure, path: Path) -> None:
    """Writes a figure as a PNG of a palette, less than half of the bytes, and closes it."""
    image = io.BytesIO()
    figure.savefig(image, dpi=90)
    plt.close(figure)
    PIL.Image.open(image).convert("RGB").quantize(256).save(path, optimize=True)
