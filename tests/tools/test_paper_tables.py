"""benchmarks/paper_tables.py: its bootstrap against pycocotools, its rows, and the program on a few tiny images."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from benchmark_modules import BENCHMARKS, benchmark_modules
from coco_files import make_dataset, random_rows
from small_runs import TINY, assert_same

from mlc_ext.detectors.evaluation.coco_metrics import CocoEvaluator, ProposalEvaluator
from mlc_ext.detectors.runs.checkpoint import load_checkpoint

SETTINGS = {key: TINY[key] for key in TINY if key not in ("mlc.start_epoch", "run.log_every")} | {
    "data.short_side": 64,
    "data.long_side": 64,
    "schedule.epochs": 2,
}


@pytest.fixture(scope="module")
def paper():
    """The modules, by name."""
    parts = ("bootstrap", "jobs", "parts", "rows", "tables")
    modules = benchmark_modules("paper_tables", *(f"paper.{name}" for name in parts))
    return dict(zip(("program", *parts), modules, strict=True))


def outputs_near(dataset, rng, digits=1):
    """Boxes near the objects and elsewhere, with scores that repeat or, of many digits, do not."""
    for k, image_id in enumerate(dataset.image_ids):
        boxes = dataset.target(k)["boxes"].repeat(5, 1)
        boxes = boxes + torch.from_numpy(rng.normal(scale=8, size=boxes.shape)).float()
        boxes[:, 2:] = boxes[:, 2:].maximum(boxes[:, :2] + 1)
        scores = torch.from_numpy(rng.uniform(size=len(boxes)).round(digits)).double()
        yield image_id, {"boxes": boxes, "labels": dataset.target(k)["labels"].repeat(5), "scores": scores}


@pytest.mark.parametrize("seed", range(5))
def test_matches_give_pycocotools_figures(paper, tmp_path, seed):
    rng = np.random.default_rng(seed)
    dataset = make_dataset(tmp_path, random_rows(rng))
    outputs = dict(outputs_near(dataset, rng))
    detection, proposals = CocoEvaluator(dataset), ProposalEvaluator(dataset, counts=(3, 10, 1000))
    for evaluator in (detection, proposals):
        evaluator.update(list(outputs), list(outputs.values()))
    found = paper["bootstrap"].match(detection.truth, detection.results())
    for name in ("AP", "AP50", "AP75"):
        assert found.metric(name) == pytest.approx(detection.summarize()[name], abs=1e-12)
    recalls = paper["bootstrap"].match(
        proposals.truth, proposals.results(), max_detections=1000, recall_at=(3, 10, 1000)
    )
    for name in ("AR@3", "AR@10", "AR@1000"):
        assert recalls.metric(name) == pytest.approx(proposals.summarize()[name], abs=1e-12)


def test_an_image_drawn_twice_is_an_image_that_is_there_twice(paper, tmp_path):
    rng = np.random.default_rng(0)
    rows = random_rows(rng)
    dataset = make_dataset(tmp_path, rows)
    outputs = dict(outputs_near(dataset, rng, 16))
    evaluator = CocoEvaluator(dataset)
    evaluator.update(list(outputs), list(outputs.values()))
    match = paper["bootstrap"].match
    counts = np.array([2.0, 0.0, 1.0, 3.0])
    images, annotations, results = [], [], []
    for k, image in enumerate(evaluator.truth["images"]):
        for again in range(int(counts[k])):
            copy = 100 * again + image["id"]
            images.append({**image, "id": copy})
            for old, new in ((evaluator.truth["annotations"], annotations), (evaluator.results(), results)):
                new += [{**row, "image_id": copy} for row in old if row["image_id"] == image["id"]]
    annotations = [{**row, "id": k} for k, row in enumerate(annotations, start=1)]
    drawn = match({**evaluator.truth, "images": images, "annotations": annotations}, results)
    once = match(evaluator.truth, evaluator.results())
    # copies have equal scores: of those a true one may stand before or behind a false one of the other copy
    assert once.metric("AP", counts) == pytest.approx(drawn.metric("AP"), abs=0.01)
    assert once.metric("AP", 2 * np.ones(4)) == pytest.approx(once.metric("AP"), abs=1e-12)


def test_nothing_found_and_nothing_there(paper, tmp_path):
    match = paper["bootstrap"].match
    dataset = make_dataset(tmp_path, random_rows(np.random.default_rng(0), 9))
    truth = CocoEvaluator(dataset).truth
    assert match(truth, []).metric("AP") == 0
    assert np.isnan(match({**truth, "annotations": []}, []).metric("AP"))


def test_paired_differences(paper, tmp_path):
    """The same detections differ by 0 with certainty; better ones by more than nothing."""
    rng = np.random.default_rng(1)
    dataset = make_dataset(tmp_path, random_rows(rng))
    outputs = dict(outputs_near(dataset, rng))
    exact = {
        image_id: {**dataset.target(k), "scores": torch.ones(len(dataset.target(k)["labels"]))}
        for k, image_id in enumerate(dataset.image_ids)
    }
    rows = {}
    for name, found in (("near", outputs), ("same", outputs), ("exact", exact)):
        evaluator = CocoEvaluator(dataset)
        evaluator.update(list(found), list(found.values()))
        rows[name] = [paper["bootstrap"].match(evaluator.truth, evaluator.results())] * 2
    paired = paper["bootstrap"].paired_differences
    found = paired(rows, "near", "AP", resamples=50)
    assert found["same"] == paper["bootstrap"].Difference(0, 0, 0) and "near" not in found
    better = found["exact"]
    assert better.mean == pytest.approx(rows["exact"][0].metric("AP") - rows["near"][0].metric("AP"))
    assert 0 < better.low <= better.mean + 0.2 and better.low < better.high
    assert paired(rows, "near", "AP", resamples=50) == found


def test_rows_are_the_papers(paper):
    tables, rows = paper["rows"].TABLES, paper["rows"].ROWS
    assert [len(tables[n].rows) for n in "1234"] == [3, 4, 8, 4]
    assert {key for key, row in rows.items() if row.paper} == {row for n in "1234" for row in tables[n].rows}
    used = {row for table in tables.values() for row in table.rows}
    assert used == rows.keys() and {row.stem for row in rows.values()} == paper["rows"].STEMS.keys()
    assert paper["rows"].baseline("fcos") == paper["rows"].baseline("fcos-_mlc") == "fcos-"
    assert paper["rows"].baseline("rpn_ml") == "rpn"


def test_a_seeds_parts(paper, tmp_path):
    """Rows of a detector go on from two first parts, alone and with the IoU layer; only what is switched on differs."""
    build = paper["parts"].build_parts
    rows = [row for n in "1234" for row in paper["rows"].TABLES[n].rows]
    every = build(rows, "small", 3, tmp_path, None, ["schedule.epochs=19"], 1)
    by_name = {part.out.name: part for part in every}
    assert len(every) == 7 + 15 and all(part.config.run.seed == 3 for part in every)
    assert by_name["fcos-_ml"].after is by_name["fcos-"].after is by_name["stem_fcos-"]
    assert by_name["fcos-_mlc"].after is by_name["stem_fcos-_iou"] and by_name["stem_fcos-_iou"].config.mlc.iur
    assert by_name["fcos-_iou_nms"].after is by_name["fcos-_iur"] and by_name["fcos-_iou_nms"].tests
    assert by_name["rpn_mlc"].config.mlc.alpha == 2 and by_name["rpn_mlc"].config.mlc.ml
    assert all(part.config.mlc.start_epoch == 12 and part.config.milestones() == (16, 18) for part in every)
    full = build(["retinanet_ml"], "full", 0, tmp_path, "coco", ["mlc.start_epoch=7"], None)
    assert [part.config.schedule.epochs for part in full] == [19, 19] and full[0].config.mlc.start_epoch == 7
    assert len(build(["fcos-_iou_nms"], "small", 0, tmp_path, None, [], 1)) == 3
    early = build(["fcos-_ml_early"], "small", 0, tmp_path, None, ["schedule.epochs=19"], 1)
    assert [part.config.mlc.start_epoch for part in early] == [6, 6]


def command(out, *arguments):
    settings = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    return [sys.executable, str(BENCHMARKS / "paper_tables.py"), "--out", str(out), "--seeds", "1", "--jobs", "1",
            "--resamples", "5", *settings, *arguments]  # fmt: skip


def run(folder, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command(folder / "out", *arguments), cwd=folder, env=environment, text=True,
                          capture_output=True, timeout=300)  # fmt: skip


def test_the_program(paper, tmp_path):
    """Stopped at once it keeps nothing but tells; then Table 2 whole; then nothing is left to do."""
    stopped = run(tmp_path, "--tables", "2", "--minutes", "0")
    assert stopped.returncode == 0 and "no row is done yet" in stopped.stdout and "7 of 7 parts are" in stopped.stderr
    document = tmp_path / "results.md"
    document.write_text("# Results\n\n<!-- tables -->\nold\n<!-- /tables -->\n\nBelow.\n")
    done = run(tmp_path, "--tables", "2", "--markdown", str(document))
    assert done.returncode == 0, done.stdout + done.stderr
    text = document.read_text()
    assert text.startswith("# Results\n\n<!-- tables -->\n`python benchmarks/paper_tables.py") and "old" not in text
    assert text.endswith("<!-- /tables -->\n\nBelow.\n") and "| FCOS- + IoU-NMS | - | 32.6 |" in text
    assert re.search(r"\n1 seed, trained at \w+\+?\.\n", text)
    first, row = (load_checkpoint(tmp_path / "out" / "seed0" / name / "checkpoint.pt") for name in
                  ("stem_fcos-", "fcos-"))  # fmt: skip
    assert first["iteration"] == 3 and row["iteration"] == 4  # of 2 epochs of 2 steps, 12/19
    assert first["history"]
    assert_same(row["history"][: len(first["history"])], first["history"])
    metrics = json.loads((tmp_path / "out" / "seed0" / "fcos-_iur" / "metrics.json").read_text())["metrics"]
    again = run(tmp_path, "--tables", "2", "--show", "--figures", "drawn")
    assert again.returncode == 0, again.stderr
    assert f"{100 * metrics['AP']:.2f}" in again.stdout and "first part" not in again.stdout
    table = done.stdout[done.stdout.index("Table 2.") :]
    assert again.stdout == table + "drawn/epochs.png\ndrawn/labels.png\ndrawn/ap_by_iou.png\n"
    for name in ("epochs", "labels", "ap_by_iou"):
        assert (tmp_path / "drawn" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    other = run(tmp_path, "--tables", "2", "--set", "schedule.lr=0.5")
    assert other.returncode == 2 and "made with other settings (schedule.lr): choose another --out" in other.stderr


def test_a_part_that_fails_is_told_and_the_others_go_on(tmp_path):
    done = run(tmp_path, "--tables", "1", "--set", "mlc.start_epoch=1", "--set", "model.centerness_on=reg")
    assert done.returncode == 1 and "is no setting of 'fcos-'" in done.stdout and "4 of 4 parts are not" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tables", "1,5"], "--tables: there are 1, 2, 3, 4, ablations, not '5'"),
        (["--tables", ""], "not ''"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
    ],
)
def test_bad_options(paper, capsys, arguments, told):
    with pytest.raises(SystemExit) as end:
        paper["program"].main(arguments)
    assert end.value.code == 2 and told in capsys.readouterr().err


def test_a_bad_setting(paper, capsys, tmp_path):
    assert paper["program"].main(["--out", str(tmp_path), "--set", "schedule.epoch=3"]) == 2
    assert "unknown setting 'schedule.epoch'; did you mean 'schedule.epochs'" in capsys.readouterr().err
