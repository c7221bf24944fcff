"""benchmarks/growth.py without its long runs: the fitted exponents, what is measured, the document, a picture."""

import sys

import pytest
from benchmark_modules import BENCHMARKS, benchmark_modules


@pytest.fixture(scope="module")
def growth():
    return benchmark_modules("growth")[0]


def curve(growth, name="3 groups", power=1.0):
    sizes = [100, 1000, 10_000, 100_000]
    ours, peer = ([c * n**p for n in sizes] for c, p in ((1e-5, power), (1e-4, 2 * power)))
    return growth.Curve(name, sizes, "loop", {"mlc_ext": ours, "loop": peer})


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_exponent_of_a_power_law(growth, power):
    sizes = [1, 10, 30, 100, 1000]
    assert growth.fitted_exponent(sizes, [3e-3 * n**power for n in sizes]) == pytest.approx(power, abs=1e-12)


def test_the_cost_of_a_call_does_not_count(growth):
    sizes = [10**i for i in range(1, 8)]
    assert growth.fitted_exponent(sizes, [0.01 + 1e-6 * n for n in sizes]) == pytest.approx(1, abs=0.1)
    assert growth.fitted_exponent([1, 2, 1000], [1.0, 2.0, 1000.0]) == pytest.approx(1)  # three points at least


def test_every_operator_is_drawn(growth):
    stems = {path.stem.removeprefix("bm_") for path in BENCHMARKS.glob("bm_*.py")} - {"assigners"}
    panels = growth.panels()
    assert set(panels) == stems
    for drawn in panels.values():
        for panel in drawn:
            assert len(panel.sizes) >= 4 and panel.sizes == sorted(panel.sizes) and len(panel.curves) == 2


@pytest.mark.parametrize(
    "operator",
    [
        "segmented_otsu",
        "mutual_labels",
        "match_boxes",
        "topk_alignment",
        "box_iou",
        "paired_box_iou",
        "iou_loss",
        "segmented_spearman",
        "sigmoid_focal_loss",
    ],
)
def test_the_smallest_case_of_every_curve_measures_what_it_says(growth, operator):
    """The peers agree. (NMS's is compiled, which takes a while.)"""
    for panel in growth.panels()[operator]:
        for case_of in panel.curves.values():
            case = case_of(panel.sizes[0], growth.Brief())
            case.check()
            assert case.peers


def test_minima_of_all_rounds_and_only_of_peers_that_agree(growth):
    calls = []

    def case_of(size, settings):
        return growth.Case(f"{size}", lambda: calls.append(size), {"slow": lambda: sum(range(size * 20)), "b": None})

    settings = growth.Brief()
    panel = growth.Panel("n", [100, 1000], {"few": case_of})
    (found,) = growth.measure_panel(panel, settings)
    assert (found.name, found.sizes, found.peer) == ("few", [100, 1000], "slow")
    assert set(found.milliseconds) == {"mlc_ext", "slow"} and set(calls) == {100, 1000}
    assert all(0 < ms < float("inf") for row in found.milliseconds.values() for ms in row)

    def wrong(size, settings):
        def check():
            raise AssertionError("another result")

        return growth.Case("", lambda: None, {"wrong": lambda: None}, check)

    with pytest.raises(AssertionError, match="another result"):
        growth.measure_panel(growth.Panel("n", [1, 2], {"": wrong}), settings)


FACTS = dict.fromkeys(("cpu", "threads", "torch", "device", "date", "commit"), "x") | {"threads": 2}


def test_document(growth):
    text = growth.document({"box_iou": [("boxes N", [curve(growth), curve(growth, "9 groups", 0.25)])]}, FACTS)
    assert "![box_iou](growth/box_iou.png)" in text and "2 threads" in text
    assert "Against boxes N, time grows with the power 1.00 (3 groups), 0.25 (9 groups)" in text
    assert "loop: 2.00 (3 groups), 0.50 (9 groups)." in text


def test_picture(growth, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "x.png"
    growth.draw(growth.pyplot(), "box_iou", [("boxes N", [curve(growth)]), ("others K", [curve(growth)])], path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 60_000


def test_without_matplotlib_it_says_what_to_install(growth, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match=r"pip install matplotlib \(or mlc-ext\[bench\]\)"):
        growth.pyplot()
