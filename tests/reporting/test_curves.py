"""Charts over the training and of bars: one logged step is seen, bars without length begin at 0."""

import contextlib
import io
from types import SimpleNamespace

import pytest
from PIL import Image, ImageColor
from random_detections import evaluated, results_of, truth_of

from mlc_ext.detectors.evaluation.explanation import explain
from mlc_ext.detectors.reporting import class_charts, curves
from mlc_ext.detectors.reporting.charts import COLORS, legend_name

pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install mlc-ext[report])")


@pytest.mark.parametrize("steps", [1, 2])
def test_a_loss_that_was_logged_is_seen(steps):
    logged = [{"epoch": k + 1.0, "loss": 2.0 - k / 2} for k in range(steps)]
    run = SimpleNamespace(name="a", logged=logged, mutual_start=0.5, rate_drops=[0.7])
    (chart,) = curves.loss_charts([run])
    colors = Image.open(io.BytesIO(chart.png)).convert("RGB").getcolors(1 << 20)
    assert dict((color, n) for n, color in colors).get(ImageColor.getrgb(COLORS[0]), 0) > 20


def test_bars_of_a_detector_that_finds_nothing_begin_at_zero(monkeypatch):
    seen = []

    @contextlib.contextmanager
    def kept(*arguments, **options):
        with drawing(*arguments, **options) as axes:
            yield axes
            seen.append(axes.get_xlim())

    drawing = class_charts.drawing
    monkeypatch.setattr(class_charts, "drawing", kept)
    class_charts.error_charts([explain(evaluated(truth_of([(1, 1, [10, 10, 40, 40])]), results_of([])))])
    assert seen == [(0, 1)] * 2


def test_counts_in_the_matrix_are_legible():
    """WCAG's contrast of the text and its cell, of every share."""
    import matplotlib

    shades = matplotlib.colormaps[class_charts._SHADES]

    def luminance(color):
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    for share in [k / 100 for k in range(101)]:
        text = {"white": 1.0, "black": 0.0}[class_charts._ink(share)]
        dark, light = sorted([text, luminance(shades(share))])
        assert (light + 0.05) / (dark + 0.05) > 4


def test_names_keep_the_characters_of_the_font():
    assert legend_name("M\u00fcller \u0416\u03b1") == "M\u00fcller \u0416\u03b1"
    assert legend_name("\u8eca\n\x1b[1m") == "???[1m"
