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


def test_names_keep_the_characters_of_the_font():
    assert legend_name("M\u00fcller \u0416\u03b1") == "M\u00fcller \u0416\u03b1"
    assert legend_name("\u8eca\n\x1b[1m") == "???[1m"
