"""The page's section on classes and errors, with one class, with many, and with runs of other classes."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from random_detections import evaluated, random_case, results_of, truth_of

from mlc_ext.detectors.evaluation.error_shares import KINDS
from mlc_ext.detectors.evaluation.explanation import explain
from mlc_ext.detectors.reporting.class_charts import class_charts, error_charts
from mlc_ext.detectors.reporting.classes_section import classes_section

pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install mlc-ext[report])")


def section(*found):
    known = [(f"run <{k}>", each) for k, each in enumerate(found)]
    return classes_section(known, error_charts(found), [class_charts(each, k) for k, each in enumerate(found)])


def tables(html):
    """Each table as rows of texts."""
    rows = [re.findall(r"<tr>(.*?)</tr>", table) for table in re.findall(r"<table>(.*?)</table>", html)]
    return [[[re.sub("<.*?>", " ", cell).split() for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)]
             for row in table] for table in rows]  # fmt: skip


@pytest.mark.parametrize("num_classes", [1, 3, 16, 80])
def test_figures_are_those_of_the_evaluation(num_classes):
    found = explain(evaluated(*random_case(3, num_images=20, num_classes=num_classes)), score_threshold=0.2)
    html = section(found)
    errors, *confused, classes = tables(html)
    assert [row[0][0] for row in errors[1:7]] == list(KINDS)
    for row, share in zip(errors[1:7], found.errors.kinds.values(), strict=True):
        assert row[1] == [f"{100 * share.gain:.1f}", str(share.count)]
    assert len(classes) == num_classes + 1
    for row, each in zip(classes[1:], found.classes, strict=True):
        assert row[0] == each.name.split() and row[1] == [str(each.objects)]
        assert row[3] == [f"{100 * each.AP50:.1f}" if np.isfinite(each.AP50) else "-"]
    assert len(confused) == (num_classes > 1)
    assert (f"<summary>All {num_classes} classes as a table" in html) == (num_classes > 20)
    assert "score above 0.2 on objects, IoU at least 0.5" in html
    assert "run &lt;0&gt;" in html and "<0>" not in html


def test_runs_side_by_side_and_a_run_without_classes():
    one, other = (explain(evaluated(*random_case(seed, num_classes=k))) for seed, k in ((1, 3), (2, 5)))
    errors, *_ = tables(section(one, other))
    gains = [f"{100 * each.errors.kinds['localization'].gain:.1f}" for each in (one, other)]
    assert [cell[0] for cell in errors[1][1:]] == gains
    charts = error_charts([None, one, other])
    assert [chart.file for chart in charts] == ["errors.png", "classes.png"]
    assert charts[0].png != error_charts([one, None, other])[0].png, "colors go by the number of the run"
    assert error_charts([None]) == []


@pytest.mark.parametrize("num_classes", [1, 8, 24, 80])
def test_charts_have_a_readable_size(num_classes):
    truth, results = random_case(4, num_images=30, num_classes=num_classes)
    truth["categories"][0]["name"] = "_$a very long name of a class, of 50 characters$"
    found = explain(evaluated(truth, results))
    for chart in [*error_charts([found] * 3), *class_charts(found, 1)]:
        width, height = Image.open(io.BytesIO(chart.png)).size
        assert width == 672 and 150 < height < 1700, chart.file


def test_nothing_at_all():
    found = explain(evaluated(truth_of([], num_classes=2), results_of([])))
    assert "No two classes are confused" in section(found)
