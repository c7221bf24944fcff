"""detectors/report.py: its figures are the run's and pycocotools', its labels the model's, its page a page."""

import contextlib
import html
import io
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from small_runs import config_of

from mlc_ext.detectors import report
from mlc_ext.detectors.data.generated.dataset import generate
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.evaluation import stored
from mlc_ext.detectors.evaluation.coco_metrics import CocoEvaluator
from mlc_ext.detectors.evaluation.error_shares import KINDS
from mlc_ext.detectors.evaluation.explanation import explain
from mlc_ext.detectors.evaluation.matching import match
from mlc_ext.detectors.evaluation.measure import measure
from mlc_ext.detectors.evaluation.metrics_table import REPORTED, shown
from mlc_ext.detectors.models.targets import prepare_targets
from mlc_ext.detectors.reporting.charts import legend_name, thinned
from mlc_ext.detectors.reporting.embedded_images import Pictures
from mlc_ext.detectors.reporting.gallery import find_groups
from mlc_ext.detectors.reporting.scatter import sampled
from mlc_ext.detectors.runs.history import read_runs, run_names, setting_differences
from mlc_ext.detectors.runs.load import load_for_evaluation

pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install mlc-ext[report])")

HOSTILE = '<b>&"x"'
BOTH = ("fcos_minus_r50", "fcos_minus_r50_mlc")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A generated set whose first category, and whose first validation image, have names that HTML must not meet."""
    root = generate(tmp_path_factory.mktemp("data") / "set", num_train=7, num_val=4, image_size=64)
    for split in ("train", "val"):
        path = root / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        content["categories"][0]["name"] = HOSTILE
        if split == "val":
            name = content["images"][0]["file_name"]
            content["images"][0]["file_name"] = "<img src=x>'&.png"
            (root / split / name).rename(root / split / "<img src=x>'&.png")
        path.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Folders of three trained runs: the baseline, MLC under a hostile name, and RPN."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for name, preset in (("base", "fcos_minus_r50"), ("_<i>$x & mlc", "fcos_minus_r50_mlc"), ("rpn", "rpn_r50_mlc")):
        config = config_of(preset, folder / name, run__eval_every=1, data__data=str(data))
        Trainer(config, progress=False).run()
        found[preset] = folder / name
    return found


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory):
    """The report of both FCOS- runs: its file."""
    out = tmp_path_factory.mktemp("report") / "page.html"
    assert call(runs["fcos_minus_r50"], runs["fcos_minus_r50_mlc"], "--out", out) == 0
    return out


def call(*arguments):
    return report.main([*map(str, arguments), "--device", "cpu", "--quiet", "--images", "3"])


class Page(HTMLParser):
    """What a browser makes of the tags: tables as rows of texts, tag names, attributes."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.tables, self.tags, self.attributes, self.words = [], set(), [], []
        self._open = []
        self.feed(Path(path).read_text("ascii"))

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:  # void elements have no end
            pass

    def handle_data(self, words):
        if "script" not in self._open and "style" not in self._open:
            self.words.append(words)
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += ("\n" if self._open[-1] == "small" else "") + words

    @property
    def text(self):
        return " ".join(self.words)


def metrics_of(folder):
    values = json.loads((folder / "metrics.json").read_text())["metrics"]
    return {key: math.nan if value is None else value for key, value in values.items()}


def label_json(path):
    found = re.findall(r'<script type="application/json" id="label-data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(found[0])


def test_the_table_is_the_runs_metrics(runs, made):
    folders = runs["fcos_minus_r50"], runs["fcos_minus_r50_mlc"]
    first, second = map(metrics_of, folders)
    head, *rows = Page(made).tables[0]
    keys = {heading: key for key, heading in REPORTED}
    assert head[1:4] == ["AP", "AP50", "AP75"] and "corr(pooled)" in head
    assert [row[0] for row in rows] == [folder.name for folder in folders]
    for column, heading in enumerate(head[1:], start=1):
        key = keys[heading]
        assert rows[0][column] == shown(key, first[key])
        assert rows[1][column] == f"{shown(key, second[key])}\n{shown(key, second[key] - first[key], signed=True)}"
    assert any(cell == "-" for cell in rows[0]), "a metric of nothing (large objects of small images) is a dash"


def test_settings_that_differ(runs, made):
    table = Page(made).tables[1]
    assert table[0][1:] == [runs["fcos_minus_r50"].name, runs["fcos_minus_r50_mlc"].name]
    assert {row[0]: row[1:] for row in table[1:]} == {"mlc.ml": ["False", "True"], "mlc.iur": ["False", "True"]}


@pytest.mark.parametrize("preset", ["fcos_minus_r50_mlc", "rpn_r50_mlc"])
def test_curves_are_pycocotools_own(runs, preset):
    loaded = load_for_evaluation(runs[preset] / "checkpoint.pt", device="cpu")
    measured = measure(loaded.model, loaded.dataset, batch_size=4, device=loaded.device, progress=False)
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = measured.evaluator.truth
        rows = [{**row, "id": k + 1, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
                for k, row in enumerate(measured.evaluator.results())]  # fmt: skip
        found.dataset = {**truth.dataset, "annotations": rows}
        truth.createIndex()
        found.createIndex()
        expected = COCOeval(truth, found, "bbox")
        if preset.startswith("rpn"):
            expected.params.maxDets = [100, 300, 1000]
        expected.evaluate()
        expected.accumulate()
    curves, metrics = measured.evaluator.curves(), measured.metrics()
    assert curves.ious.tolist() == pytest.approx(np.arange(0.5, 1, 0.05).tolist())
    if preset.startswith("rpn"):
        assert curves.recall == pytest.approx(expected.eval["recall"][:, 0, 0, :])
        assert curves.recall.mean(0) == pytest.approx([metrics[f"AR@{count}"] for count in curves.counts])
    else:
        precision = expected.eval["precision"][:, :, :, 0, -1]
        there = (precision > -1).all((0, 1))
        assert curves.precision == pytest.approx(precision[:, :, there].mean(2))
        assert [curves.ap.mean(), curves.ap[0], curves.ap[5]] == pytest.approx([metrics[k] for k in
                                                                               ("AP", "AP50", "AP75")])  # fmt: skip
    # what is matched and missed is what recall counts
    evaluator = measured.evaluator
    matched = match(evaluator.truth, evaluator.results(), most=evaluator.most).objects
    hit = (matched >= 0).sum()
    assert hit == sum((part["dtMatches"][0] > 0).sum() for part in expected.evalImgs if part and
                      part["aRng"] == expected.params.areaRng[0])  # fmt: skip
    assert len(set(matched[matched >= 0])) == hit <= loaded.dataset.num_objects


@pytest.mark.parametrize("preset", ["fcos_minus_r50_mlc", "rpn_r50_mlc"])
def test_labels_are_the_models(runs, preset, tmp_path):
    out = tmp_path / "page.html"
    assert call(runs[preset], "--out", out) == 0
    (shown_run,) = label_json(out)["runs"]
    loaded = load_for_evaluation(runs[preset] / "checkpoint.pt", device="cpu")
    model, seen = loaded.model.eval(), 0
    for index, image in enumerate(shown_run["images"]):
        pixels, target = loaded.dataset[index]
        with torch.no_grad():
            outputs, sizes, _ = model.head_outputs([pixels])
            objects = prepare_targets([target], 1, loaded.device, model.num_classes)
            baseline, mutual = (model.label(outputs, sizes, objects, mutual=way) for way in (False, True))
        boxes = objects[0]["boxes"]
        assert image["size"] == [pixels.shape[2], pixels.shape[1]] and image["left_out"] == 0
        assert len(image["objects"]) == len(boxes)
        for each in image["objects"]:
            (k,) = [k for k, box in enumerate(boxes.tolist()) if np.allclose(box, each["box"], atol=0.06)]
            own = mutual.assignment.candidate_gt == k
            places = mutual.priors[own]
            centers = places if places.shape[1] == 2 else (places[:, :2] + places[:, 2:]) / 2
            assert np.allclose(centers, np.array([each["x"], each["y"]]).T, atol=0.06)
            for way, labeled in (("baseline", baseline), ("mutual", mutual)):
                cls = labeled.task.cls_labels[own]
                assert each["labels"][way]["cls"] == "".join("+" if v > 0 else "-" if v == 0 else "." for v in cls)
                loc = labeled.task.loc_positive[own]
                assert each["labels"][way]["loc"] == "".join("+" if v else "-" for v in loc)
            tau_score, tau_iou = (float(tau[k]) for tau in mutual.task.thresholds)
            assert (each["tau"]["score"], each["tau"]["iou"]) == (tau_score, tau_iou)
            ious, scores = mutual.task.ious[own], mutual.task.scores[own]
            equal = {task: bool(values.min() == values.max()) for task, values in (("cls", ious), ("loc", scores))}
            assert each["fell_back"] == equal
            assert sum(each["hist"]["iou"]) == sum(each["hist"]["score"]) == int(own.sum())
            assert each["score_max"] == float(scores.max())
            seen += 1
    assert seen > 3


def test_an_object_that_falls_back_is_said_so(runs, monkeypatch, tmp_path):
    from mlc_ext.detectors.models.dense_detector import DenseDetector

    run = DenseDetector.head_outputs

    def constant(self, images):
        outputs, *rest = run(self, images)
        return outputs | {"cls_logits": torch.zeros_like(outputs["cls_logits"])}, *rest

    monkeypatch.setattr(DenseDetector, "head_outputs", constant)
    assert call(runs["fcos_minus_r50_mlc"], "--out", tmp_path / "page.html") == 0
    found = [each for image in label_json(tmp_path / "page.html")["runs"][0]["images"] for each in image["objects"]]
    assert all(each["fell_back"]["loc"] for each in found)
    assert all(each["labels"]["mutual"]["loc"] == each["labels"]["baseline"]["loc"] for each in found)
    assert "(fell back)" in Page(tmp_path / "page.html").text


def test_nothing_is_fetched_and_everything_is_escaped(runs, made):
    page, text = Page(made), made.read_text("ascii")
    references = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert len(references) > 20 and all(value.startswith(("data:", "#")) for value in references)
    assert not re.search(r"url\(|@import|<link[^>]+stylesheet|fetch\(|XMLHttpRequest", text)
    assert "default-src 'none'" in text and 'name="viewport"' in text
    assert not {"b", "i"} & page.tags and "<img src=x>" not in text
    assert all(value == "" or len(value) > 30 for name, value in page.attributes if name == "src")
    assert HOSTILE in page.text and "<img src=x>'&.png" in page.text and "_<i>$x & mlc" in page.text
    found = label_json(made)
    assert found["runs"][1]["name"] == "_<i>$x & mlc" and found["runs"][0]["images"][0]["name"] == "<img src=x>'&.png"
    assert HOSTILE in {each["name"] for image in found["runs"][0]["images"] for each in image["objects"]}
    assert len(found["pictures"]) == 3  # held once for both runs
    assert made.stat().st_size < 3e6


def test_equal_runs_make_equal_reports(runs, made, tmp_path):
    assert call(runs["fcos_minus_r50"], runs["fcos_minus_r50_mlc"], "--out", tmp_path / "page.html") == 0
    assert (tmp_path / "page.html").read_bytes() == made.read_bytes()
    charts = sorted((made.parent / "page_charts").iterdir())
    names = {chart.name for chart in charts}
    assert {
        "legend.png",
        "errors.png",
        "classes.png",
        "classes_precision_1.png",
        "confusion_2.png",
        "loss.png",
        "loss_iou_rescoring.png",
        "metric_AP.png",
        "metric_correlation.png",
        "ap_by_iou.png",
        "precision_recall_50.png",
        "precision_recall_75.png",
        "scatter_1.png",
        "scatter_2.png",
    } <= names
    assert all((tmp_path / "page_charts" / chart.name).read_bytes() == chart.read_bytes() for chart in charts)


def test_one_legend_names_the_runs(made):
    page = made.read_text()
    assert page.count('alt="legend: ') == 1
    assert 'alt="legend: base, _&lt;i&gt;$x &amp; mlc, mutual labeling starts, learning rate / 10"' in page


def test_a_single_evaluation_is_a_bar(runs, tmp_path):
    """Of two evaluations the last is left."""
    pages = []
    for single in (False, True):
        folders = [copied(runs[name], tmp_path / f"{single}{k}", "*.pt") for k, name in enumerate(BOTH)]
        for folder in folders if single else ():
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            first = next(line for line in lines if '"metrics"' in line)
            (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines if line != first))
        assert call(*folders, "--out", tmp_path / f"{single}.html") == 0
        pages.append((tmp_path / f"{single}.html").read_text())
    assert 'alt="AP over epochs"' in pages[0] and 'alt="AP by run"' not in pages[0]
    assert 'alt="AP by run"' in pages[1] and 'alt="AP over epochs"' not in pages[1]


def test_classes_and_errors(runs, made):
    page = Page(made)
    (errors,) = [table for table in page.tables if table[1][0] == "localization"]
    assert [row[0] for row in errors[1:]] == [*KINDS, "false positives", "false negatives"]
    by_class = [table for table in page.tables if table[0][:2] == ["class", "objects"]]
    assert len(by_class) == 2 and by_class[0][1][0] == HOSTILE
    loaded = load_for_evaluation(runs["fcos_minus_r50_mlc"], device="cpu")
    measured = measure(loaded.model, loaded.dataset, batch_size=4, device=loaded.device, progress=False)
    found = explain(measured.evaluator)
    assert [row[1:] for row in by_class[1][1:]] == [
        [str(each.objects), *(shown(key, getattr(each, key)) for key in ("AP", "AP50", "AP75", "AR"))]
        for each in found.classes
    ]


def test_an_evaluation_that_was_kept_is_read(runs, made, tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "measure_loaded", lambda *_, **__: pytest.fail("it was computed again"))
    assert call(*(runs[name] for name in BOTH), "--out", tmp_path / "page.html") == 0
    assert (tmp_path / "page.html").read_bytes() == made.read_bytes()


def test_proposals(runs, tmp_path):
    out = tmp_path / "page.html"
    assert call(runs["rpn_r50_mlc"], runs["fcos_minus_r50"], "--out", out) == 0
    head, *rows = Page(out).tables[0]
    column = head.index("AR@300")
    assert rows[0][column] == shown("AR@300", metrics_of(runs["rpn_r50_mlc"])["AR@300"]) and rows[1][column] == "-\n-"
    names = {chart.name for chart in (tmp_path / "page_charts").iterdir()}
    assert {"recall_100.png", "recall_300.png", "recall_1000.png", "metric_AR_1000.png", "ap_by_iou.png"} <= names
    assert {each["name"] for each in label_json(out)["runs"][0]["images"][0]["objects"]} == {"object"}


def copied(folder, target, *without):
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(*without))
    return target


def test_without_a_checkpoint(runs, tmp_path, capsys):
    folder = copied(runs["fcos_minus_r50"], tmp_path / "run", "*.pt")
    assert call(folder, "--out", tmp_path / "page.html") == 0
    page = Page(tmp_path / "page.html")
    assert f"not evaluated, the page has its history alone: no checkpoint in {folder}" in page.text
    assert f"no checkpoint in {folder}" in capsys.readouterr().err
    assert page.tables[0][1][1] == shown("AP", metrics_of(folder)["AP"])
    assert {"loss.png", "metric_AP.png"} <= {chart.name for chart in (tmp_path / "page_charts").iterdir()}


def test_without_its_data(runs, tmp_path):
    folder = copied(runs["fcos_minus_r50"], tmp_path / "run")
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state["config"]["data"]["data"] = str(tmp_path / "gone")
    torch.save(state, folder / "checkpoint.pt")
    assert call(folder, runs["fcos_minus_r50_mlc"], "--out", tmp_path / "page.html") == 0
    assert "not evaluated, the page has its history alone: " in Page(tmp_path / "page.html").text
    assert [run["name"] for run in label_json(tmp_path / "page.html")["runs"]] == ["_<i>$x & mlc"]


def test_an_interrupted_run(runs, tmp_path):
    """Before its first evaluation, the last line half written."""
    folder = copied(runs["fcos_minus_r50_mlc"], tmp_path / "run", "metrics.json", "checkpoint.1.pt")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    logged = [line for line in lines if '"loss"' in line]
    (folder / "metrics.jsonl").write_text("\n".join(logged[:2]) + "\n" + logged[2][:40])
    (run,) = read_runs([folder])
    assert len(run.logged) == 2 and not run.evaluated and run.mutual_start == 0.5
    assert call(folder, "--out", tmp_path / "page.html") == 0
    page = Page(tmp_path / "page.html")
    for note in ("1 lines of metrics.jsonl cannot be read", "no metrics.json", "no evaluation in its history",
                 "measured for this report, checkpoint of iteration 4"):  # fmt: skip
        assert note in page.text
    assert page.tables[0][1][1] == shown("AP", metrics_of(runs["fcos_minus_r50_mlc"])["AP"])


def test_other_data_are_measured_anew(runs, data, tmp_path):
    other = copied(data, tmp_path / "other")
    path = other / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][:1]
    path.write_text(json.dumps(content))
    without = copied(runs["fcos_minus_r50"], tmp_path / "run", "*.pt")
    assert call(runs["fcos_minus_r50_mlc"], without, "--data", other, "--out", tmp_path / "page.html") == 0
    page = Page(tmp_path / "page.html")
    assert "other" in page.text and "measured for this report" in page.text and "1 boxes" in page.text
    assert set(" ".join(page.tables[0][2][1:]).split()) == {"-"}, "recorded metrics are of other data"


def test_what_cannot_be_used(runs, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    base, out = runs["fcos_minus_r50"], tmp_path / "page.html"
    for arguments, said in (
        ([tmp_path / "empty"], "is not the folder of a run: it has none of config.json, metrics.jsonl"),
        ([base.parent], f"; there are runs in it: {base.parent}/_<i>$x & mlc, {base}, "),
        ([base / "config.json"], "is not the folder of a run: it is a file\n"),
        ([tmp_path / "nothing"], f"no run {tmp_path / 'nothing'}"),
        ([base, base], "is given twice"),
        ([base, "--data", tmp_path / "nothing"], "no data folder"),
        ([base, "--batch-size", 0], "--batch-size must be at least 1, got 0"),
        ([base, "--out", tmp_path], "--out must be a file"),
    ):
        assert call(*arguments, *(() if "--out" in arguments else ("--out", out))) == 2
        error = capsys.readouterr().err
        assert error.startswith("report.py: ") and error.count("\n") == 1 and said in error
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    assert call(base, "--out", out) == 2
    assert "pip install mlc-ext[report]" in capsys.readouterr().err and not out.exists()


def test_names_and_settings(runs, tmp_path):
    assert run_names([Path("/a/x/run"), Path("/a/y/run"), Path("/a/z")]) == ["x/run", "y/run", "z"]
    assert run_names([Path("/a/run"), Path("/b/a/run")]) == ["/a/run", "b/a/run"]
    found = read_runs([runs["fcos_minus_r50"], runs["fcos_minus_r50_mlc"], runs["rpn_r50_mlc"]])
    differing = setting_differences(found)
    assert differing["mlc.ml"] == [False, True, True] and "run.out" not in differing
    assert legend_name("_a$b").startswith(" _a") and "\\$" in legend_name("_a$b") and len(legend_name("n" * 99)) == 40
    x, y = thinned(range(1000), [1.0] * 1000, 10)
    assert x[0] == 49.5 and len(x) == 10 and y == [1.0] * 10
    assert len(sampled(np.arange(10_000), 100)) == 100 and sampled(np.arange(5), 100).tolist() == [0, 1, 2, 3, 4]


class Objects:
    """Ground truth for an evaluator: two images, classes 3 and 7."""

    label_to_category = {1: 3, 2: 7}

    def __init__(self, rows):
        self.rows = rows

    def ground_truth(self):
        return {
            "images": [{"id": k, "height": 100, "width": 100} for k in (1, 2)],
            "categories": [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}],
            "annotations": [{"id": k + 1, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd,
                             "area": box[2] * box[3]} for k, (image, category, box, crowd) in enumerate(self.rows)],
        }  # fmt: skip


@pytest.mark.parametrize("backend", ["pycocotools", "faster_coco_eval"])
def test_best_and_worst_detections(backend):
    pytest.importorskip(backend, reason=f"{backend} is not installed (pip install mlc-ext[faster])")
    evaluator = CocoEvaluator(Objects([
        (1, 3, [0, 0, 20, 20], 0), (1, 7, [50, 50, 20, 20], 0), (2, 3, [0, 0, 40, 40], 0), (2, 7, [60, 60, 30, 30], 1),
    ]), backend=backend)  # fmt: skip
    boxes = torch.tensor([[0.0, 0, 20, 18], [0, 0, 20, 6], [50, 50, 70, 70], [80, 0, 90, 10], [0, 0, 20, 20]])
    evaluator.update([1], [{"boxes": boxes, "labels": torch.tensor([1, 1, 1, 2, 1]),
                            "scores": torch.tensor([0.9, 0.8, 0.7, 0.95, 0.2])}])  # fmt: skip
    evaluator.update([2], [{"boxes": torch.tensor([[60.0, 60, 90, 90]]), "labels": torch.tensor([2]),
                            "scores": torch.tensor([0.99])}])  # fmt: skip
    best, misplaced, wrong, missed = (group.cases for group in find_groups(evaluator, 5))
    assert [(case.score, round(case.iou, 6)) for case in best] == [(pytest.approx(0.9), 0.9)]
    assert best[0].target == misplaced[0].target == [0, 0, 20, 20]
    assert [(case.score, round(case.iou, 6)) for case in misplaced] == [(pytest.approx(0.8), 0.3)]
    # of an image one; on an object of another class, 0.7, comes after the background, 0.95; crowd counts for nothing
    assert [(case.image_id, case.category, case.iou, case.target) for case in wrong] == [(1, 7, 0.0, None)]
    assert [(case.image_id, case.category, case.area) for case in missed] == [(2, 3, 1600), (1, 7, 400)]
    assert misplaced[0].caption({3: "a", 7: "b"}) == "a, score 0.80, IoU 0.30" and missed[1].caption({7: "b"}) == "b"


def test_pictures_are_held_once():
    pictures, image = Pictures(longest=32), torch.full((3, 64, 48), 7, dtype=torch.uint8)
    assert [pictures.add(image), pictures.add(image + 60), pictures.add(image)] == [0, 1, 0]


PROBE = """<script>
window.faults = [];
addEventListener("error", (event) => faults.push(String(event.message || event.target.outerHTML)), true);
addEventListener("unhandledrejection", (event) => faults.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => faults.push(event.violatedDirective));
console.error = (...words) => faults.push(words.join(" "));
addEventListener("load", () => {
  const overflow = () => document.scrollingElement.scrollWidth - innerWidth;
  const paths = () => [...document.querySelectorAll("#viewer .panels path")];
  const histograms = () => document.querySelector("#viewer .histograms").innerHTML;
  const drawn = () => paths().map((path) => path.getAttribute("d")).join() + histograms();
  const choose = (id, value) => {
    const select = document.getElementById(id);
    select.value = value;
    select.dispatchEvent(new Event("change"));
  };
  const found = { width: innerWidth, overflow: [overflow()], drawn: [] };
  const seen = (each) => getComputedStyle(each).display !== "none";
  const tables = [...document.querySelectorAll(".wide")].filter((box) => box.clientWidth);
  found.hints = tables.map((box) => [box.scrollWidth > box.clientWidth, seen(box.previousElementSibling)]);
  found.focus = tables.map((box) => [box.scrollWidth > box.clientWidth, box.tabIndex === 0 && box.ariaLabel !== null]);
  const step = (action) => {
    try { action(); } catch (error) { faults.push(String(error)); }
    found.drawn.push(drawn());
    found.overflow.push(overflow());
  };
  const images = JSON.parse(document.getElementById("label-data").textContent).runs[0].images;
  const many = images.findIndex((image) => image.objects.length > 1);
  step(() => choose("choose-image", String(many)));
  step(() => document.getElementById("object-1").click());
  found.pressed = document.getElementById("object-1").getAttribute("aria-pressed");
  step(() => choose("choose-image", String((many + 1) % images.length)));
  step(() => choose("choose-run", "1"));
  const frame = () => document.querySelector("#viewer .panels svg").getAttribute("viewBox");
  found.frames = [frame()];
  step(() => document.getElementById("whole").click());
  found.frames.push(frame());
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  found.overflow.push(overflow());
  found.histograms = document.querySelectorAll("#viewer .histograms svg rect").length;
  found.tall = document.getElementById("object-0").getBoundingClientRect().height;
  found.pictures = [...document.images].every((image) => image.complete && image.naturalWidth > 0);
  found.faults = faults;
  window.found = found;
});
</script>"""
FRAME = """<!DOCTYPE html>
<iframe style="border:0" width="{width}" height="844" srcdoc="{page}"></iframe><pre id="probe"></pre>
<script>addEventListener("load", () => {{
  document.getElementById("probe").textContent = JSON.stringify(frames[0].found);
}});</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (on Debian, apt-get install chromium)")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(made, tmp_path, width):
    """In a frame, as a window is no narrower than 500 pixels."""
    page, probed = tmp_path / "page.html", made.read_text().replace("<title>", PROBE + "<title>", 1)
    page.write_text(FRAME.format(width=width, page=html.escape(probed)))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
               "--window-size=1400,900", "--dump-dom", page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    reported = re.search(r'<pre id="probe">(.+?)</pre>', done.stdout, re.DOTALL)
    assert reported, done.stderr[-2000:]
    found = json.loads(html.unescape(reported[1]))
    assert found["faults"] == [] and found["width"] == width
    assert max(found["overflow"]) <= 0
    assert all(wider == hinted for wider, hinted in found["hints"])
    assert all(wider == focused for wider, focused in found["focus"])  # the keyboard scrolls it
    assert any(hinted for _, hinted in found["hints"]) == (width == 390)
    first, second, image, run, whole = found["drawn"]
    assert first and second and len({first, second, image, run}) == 4 and whole == run
    assert found["frames"][1] == "0 0 96 96" != found["frames"][0]
    assert found["pressed"] == "true" and found["histograms"] > 2 and found["tall"] >= 40 and found["pictures"]
