"""benchmarks/paper_tables.py: its rows, their parts, and the program on a few tiny images."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from benchmark_modules import BENCHMARKS, benchmark_modules
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from small_runs import TINY, assert_same, wait_until

from mlc_ext import MLCConfig
from mlc_ext.detectors.config.overrides import differences, override
from mlc_ext.detectors.data.generated.dataset import generate
from mlc_ext.detectors.models.build import build_model
from mlc_ext.detectors.runs.checkpoint import load_checkpoint

SETTINGS = {key: TINY[key] for key in TINY if key not in ("mlc.start_epoch", "run.log_every")} | {
    "data.short_side": 64,
    "data.long_side": 64,
    "schedule.epochs": 2,
}


@pytest.fixture(scope="module")
def paper():
    """The modules, by name."""
    parts = ("data", "parts", "rows")
    modules = benchmark_modules("paper_tables", *(f"paper.{name}" for name in parts))
    return dict(zip(("program", *parts), modules, strict=True))


def test_rows_are_the_papers(paper):
    tables, rows = paper["rows"].TABLES, paper["rows"].ROWS
    assert [len(tables[n].rows) for n in "1234"] == [3, 4, 8, 4]
    assert {key for key, row in rows.items() if row.paper} == {row for n in "1234" for row in tables[n].rows}
    used = {row for table in tables.values() for row in table.rows}
    assert used == rows.keys() and {row.stem for row in rows.values()} == paper["rows"].STEMS.keys()
    assert all(len(set(table.rows)) == len(table.rows) for table in tables.values())
    for table in tables.values():  # what rows are compared with stands above them
        assert all(paper["rows"].baseline(row) in table.rows for row in table.rows)
    assert paper["rows"].baseline("fcos") == paper["rows"].baseline("fcos-_mlc") == "fcos-"
    assert paper["rows"].baseline("rpn_ml") == "rpn"


def test_rows_of_other_assigners(paper, tmp_path):
    """Each goes on from its detector's own first part, and the assigner is on from the switch."""
    tables, rows = paper["rows"].TABLES, paper["rows"].ROWS
    for name, detector, assigners in (
        ("related", "fcos-", ["atss", "task_aligned", "sim_ota", "paa", "mal"]),
        ("related_retinanet", "retinanet", ["atss", "paa", "mal"]),
    ):
        assert tables[name].metrics == ("AP", "AP75", "correlation", "correlation_pooled")
        assert len(tables[name].rows) == 3 + 3 * len(assigners)
        found = set()
        for part in plan(paper, tables[name].rows, 0, tmp_path):
            model, mlc = part.config.model, part.config.mlc
            assert model.detector == detector and part.stem.key == f"stem_{detector}"
            if part.is_stem:
                assert model.assigner is None
            else:
                assert mlc.candidates is None
                found.add((model.assigner, mlc.ml, mlc.rescoring_start <= part.config.schedule.epochs))
                assert paper["rows"].baseline(part.key) == detector
        methods = [(False, False), (False, True), (True, True)]
        assert found == {(assigner, *method) for assigner in (None, *assigners) for method in methods}
    assert rows["fcos-_atss_mlc"].name == "FCOS-, ATSS + MLC"
    assert sum(key.endswith("_all") for key in tables["related_candidates"].rows) == 6
    of_the_extension = tables["extension_related"].rows
    assert len(of_the_extension) == 16 and {paper["rows"].baseline(row) for row in of_the_extension} == {"fcos-"}
    for part in plan(paper, tables["related_candidates"].rows, 0, tmp_path):
        expected = "all" if part.key.endswith("_all") else None
        assert part.config.mlc.candidates == expected and (expected is None or part.config.model.assigner is not None)


def test_rows_are_shown_before_they_are_trained(paper, images, capsys, tmp_path):
    arguments = ["--data", str(images), "--out", str(tmp_path), "--tables", "related,related_retinanet"]
    assert paper["program"].main([*arguments, "--seeds", "1", "--protocol", "cached", "--show"]) == 0
    shown = capsys.readouterr()
    lines = [line.split("  ")[0] for line in shown.out.splitlines()]
    for name in ("related", "related_retinanet"):
        assert {paper["rows"].ROWS[row].name for row in paper["rows"].TABLES[name].rows} <= set(lines)
    assert "no row is done yet" in shown.out and "parts are not done" in shown.err
    assert not list(tmp_path.glob("seed*"))


def test_rows_of_one_detector(paper, images, capsys, tmp_path):
    arguments = ["--data", str(images), "--out", str(tmp_path), "--tables", "2,3,4", "--detectors", "fcos-", "--show"]
    assert paper["program"].main(arguments) == 0
    shown = capsys.readouterr()
    assert "Table 2" in shown.out and "Table 3" in shown.out and "Table 4" not in shown.out
    names = {line.split("  ")[0] for line in shown.out.splitlines()}
    assert {"FCOS-", "FCOS- + centerness", "FCOS- + MLC"} <= names and "RetinaNet" not in names
    assert "24 of 24 parts" in shown.err  # three seeds of 6 rows and 2 first parts

    assert paper["program"].main([*arguments, "--rows", "fcos-_ml,fcos-,rpn"]) == 0
    shown = capsys.readouterr()
    lines = [line.split("  ")[0] for line in shown.out.splitlines()]
    tables = ["Table 2. IoU rescoring (0 seeds)", "FCOS-", "Table 3. Both parts (0 seeds)", "FCOS-", "FCOS- + ML"]
    assert list(filter(None, lines)) == ["no row is done yet", *tables]
    assert "9 of 9 parts" in shown.err


def plan(paper, rows, seed, out, *, scale="small", **options):
    data = options.pop("data", paper["data"].Data("none", 160, {"data.data": "none"}, {}, {}))
    return paper["parts"].Plan(scale, data, out, **options).parts(rows, seed)


def test_a_seeds_parts(paper, tmp_path):
    """All rows of a detector go on from one first part; only what is switched on differs."""
    rows = [row for n in "1234" for row in paper["rows"].TABLES[n].rows]
    every = plan(paper, rows, 3, tmp_path, settings=["schedule.epochs=19"], threads=1)
    by_name = {part.out.name: part for part in every}
    assert len(every) == 4 + 15 and all(part.config.run.seed == 3 for part in every)
    for part in every:
        kind = part.config.model.detector
        assert part.stem is by_name[f"stem_{kind}"] and part.config.mlc.iur and part.switch == 12
        assert part.config.mlc.alpha == MLCConfig.paper(kind).alpha
    assert by_name["fcos-_ml"].after is by_name["fcos-_mlc"].after is by_name["stem_fcos-"]
    assert by_name["fcos-_iou_nms"].after is by_name["fcos-_iur"] and by_name["fcos-_iou_nms"].tests
    on = {key: (part.config.mlc.ml, part.config.mlc.rescoring_start <= 19) for key, part in by_name.items()}
    assert on["rpn"] == on["fcos"] == (False, False) and on["rpn_ml"] == (True, False)
    assert on["retinanet_iur"] == on["stem_rpn"] == (False, True) and on["retinanet_mlc"] == (True, True)
    assert all(part.config.mlc.start_epoch == 12 and part.config.milestones() == (16, 18) for part in every)
    full = plan(paper, ["retinanet_ml"], 0, tmp_path, scale="full", settings=["mlc.start_epoch=7"])
    assert [part.config.schedule.epochs for part in full] == [19, 19] and full[0].config.mlc.start_epoch == 7
    assert len(plan(paper, ["fcos-_iou_nms"], 0, tmp_path)) == 3


def test_parts_that_start_early_or_late(paper, tmp_path):
    def starts(row):
        parts = plan(paper, [row], 0, tmp_path, settings=["schedule.epochs=19"])
        return [(part.config.mlc.start_epoch, part.config.mlc.rescoring_start, part.switch) for part in parts]

    never = paper["rows"].NEVER
    assert starts("fcos-_ml_early") == [(6, never, 12)] * 2
    assert starts("fcos-_ml_late") == [(12, 12, 12), (15, never, 12)]
    assert starts("fcos-_mlc_iou_early") == [(12, 0, 12)] * 2


def test_settings_of_the_rows_are_the_models(paper, tmp_path):
    """Every row can be built, and differs from its first part in the method, the assigner and centerness alone."""
    for part in plan(paper, list(paper["rows"].ROWS), 0, tmp_path, cached=True):
        build_model(override(part.config, "model.weights", None), 3)
        changed = differences(part.stem.config, part.config)
        allowed = {"model.nms", "model.assigner"}
        if "centerness" in part.key:
            allowed |= {"model.detector", "model.centerness_weights"}
        assert all(name.startswith(("mlc.", "run.")) or name in allowed for name in changed), part.name


def command(out, *arguments):
    settings = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    return [sys.executable, str(BENCHMARKS / "paper_tables.py"), "--out", str(out), "--data", "images", "--jobs", "1",
            "--resamples", "5", "--seeds", "1", *settings, *arguments]  # fmt: skip


@pytest.fixture
def images(tmp_path):
    """A data set in COCO's format."""
    return generate(tmp_path / "images", num_train=7, num_val=6, image_size=64)


@pytest.fixture
def program(paper, tmp_path, monkeypatch, capsys):
    """The program in this process, which has paid for the imports -> exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(BENCHMARKS)  # for the processes of the parts

    def call(*arguments):
        capsys.readouterr()
        code = paper["program"].main(command(tmp_path / "out", *arguments)[2:])
        return code, *capsys.readouterr()

    return call


def run(folder, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command(folder / "out", *arguments), cwd=folder, env=environment, text=True,
                          capture_output=True, timeout=600)  # fmt: skip


def test_the_program(program, images, tmp_path):
    """Stopped at once it keeps nothing, and reports it; then Table 2 but for centerness; then nothing is left to do."""
    arguments = ("--tables", "2", "--rows", "fcos-,fcos-_iur,fcos-_iou_nms")
    code, out, error = program(*arguments, "--minutes", "0")
    assert code == 0 and "no row is done yet" in out and "4 of 4 parts are" in error
    document = tmp_path / "results.md"
    document.write_text("# Results\n\n<!-- tables -->\nold\n<!-- /tables -->\n\nBelow.\n")
    done = run(tmp_path, *arguments, "--markdown", str(document))
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
    code, again, _ = program(*arguments, "--show", "--figures", "drawn")
    assert code == 0
    assert f"{100 * metrics['AP']:.2f}" in again and "first part" not in again
    table = done.stdout[done.stdout.index("Table 2.") :]
    assert again == table + "drawn/epochs.png\ndrawn/labels.png\ndrawn/ap_by_iou.png\n"
    for name in ("epochs", "labels", "ap_by_iou"):
        assert (tmp_path / "drawn" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    code, _, error = program(*arguments, "--set", "schedule.lr=0.5")
    assert code == 2 and "made with other settings (schedule.lr): choose another --out" in error


@pytest.mark.slow
def test_a_table_of_two_first_parts(images, tmp_path):
    """Table 2 whole: centerness has a first part of its own."""
    done = run(tmp_path, "--tables", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(re.search(rf"^{re.escape(name)} .*[+-]\d", done.stdout, re.M) for name in
               ("FCOS- + centerness", "FCOS- + IUR", "FCOS- + IoU-NMS"))  # fmt: skip
    states = {name: load_checkpoint(tmp_path / "out" / "seed0" / name / "checkpoint.pt") for name in
              ("stem_fcos-", "stem_fcos", "fcos")}  # fmt: skip
    assert states["stem_fcos-"]["model"].keys() < states["stem_fcos"]["model"].keys() == states["fcos"]["model"].keys()
    assert_same(states["fcos"]["history"][: len(states["stem_fcos"]["history"])], states["stem_fcos"]["history"])


def replace_detections(images, run, seed: int) -> float:
    """Replaces the detections of a row by moved objects -> pycocotools' AP of both parts of the images together."""
    random = np.random.default_rng(seed)
    annotations = images / "annotations" / "instances_val.json"
    objects, every = json.loads(annotations.read_text())["annotations"], []
    held = {row["image_id"] for row in json.loads((run / "held_back_results.json").read_text())}
    for name, wanted in (("held_back_results.json", True), ("results.json", False)):
        rows = [
            {
                "image_id": row["image_id"],
                "category_id": row["category_id"],
                "bbox": [*(np.array(row["bbox"][:2]) + random.uniform(-4, 4, 2)), *row["bbox"][2:]],
                "score": random.random(),
            }
            for row in objects
            if (row["image_id"] in held) == wanted
        ]
        (run / name).write_text(json.dumps(rows))
        every += rows
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        found = truth.loadRes(every)
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def test_the_cached_protocol(program, images, tmp_path):
    """Two seeds, stopped in between, with images held back; a row's detector has the backbone of its first part."""
    arguments = ("--tables", "1", "--rows", "fcos-,fcos-_ml", "--protocol", "cached", "--held-back", "0.5",
                 "--set", "mlc.start_epoch=1")  # fmt: skip
    code, _, error = program(*arguments, "--seeds", "2", "--minutes", "0.1")
    assert code == 0 and "parts are not done" in error
    code, of_both, error = program(*arguments, "--seeds", "2")
    assert code == 0, of_both + error
    assert "2 seeds, trained at" in of_both and "p (Holm)" in of_both
    folder = tmp_path / "out" / "seed1"
    stem, row = (load_checkpoint(folder / name / "checkpoint.pt") for name in ("stem_fcos-", "fcos-_ml"))
    assert (stem["iteration"], row["iteration"]) == (2, 4)
    for name, value in row["model"].items():
        if "iou_logits" not in name:  # not trained in this row
            assert torch.equal(value, stem["model"][name]) == name.startswith("backbone."), name
    assert not list(tmp_path.glob("out/*/*/features.*"))  # no row needs them anymore
    rows = json.loads((folder / "fcos-_ml" / "held_back_results.json").read_text())
    kept = json.loads((folder / "fcos-_ml" / "results.json").read_text())
    assert not {r["image_id"] for r in rows} & {r["image_id"] for r in kept}
    # the figures of a run's own evaluation are those of the program for it
    settings = json.loads((folder / "fcos-_ml" / "config.json").read_text())["data"]
    assert settings["val_annotations"].endswith("kept.json")
    shown = functools.partial(program, *arguments, "--seeds", "2", "--show")
    code, against, _ = shown("--against", "fcos-_ml")
    assert code == 0
    assert "AP - that of FCOS- + ML [95 %]" in against and "AP - baseline's [95 %]" in of_both
    of_ml, of_baseline = (re.search(rf"^{name} .*?([+-]\d+\.\d+) \[", text, re.M) for name, text in
                          ((re.escape("FCOS- + ML"), of_both), ("FCOS-", against)))  # fmt: skip
    assert float(of_ml[1]) == -float(of_baseline[1])
    code, held, _ = shown("--split", "test")
    assert code == 0 and "2 seeds on the images held back" in held
    expected = [replace_detections(images, tmp_path / "out" / f"seed{k}" / "fcos-_ml", k) for k in (0, 1)]
    code, both, _ = shown("--split", "all")
    assert code == 0 and "2 seeds on all validation images" in both
    assert re.search(rf"^FCOS- \+ ML .* {100 * sum(expected) / 2:.2f} ± ", both, re.M), expected
    code, _, error = program(*arguments[:4], *arguments[6:], "--seeds", "2")
    assert code == 2 and "made with other settings (" in error


def test_a_signal_to_all_processes_is_waited_for(images, tmp_path):
    """A scheduler sends SIGTERM to every process of a job: the program ends after its part has saved a checkpoint."""
    started = subprocess.Popen(command(tmp_path / "out", "--tables", "1", "--set", "schedule.epochs=1000"),
                               cwd=tmp_path, start_new_session=True)  # fmt: skip
    stem = tmp_path / "out" / "seed0" / "stem_fcos-"
    try:
        wait_until(started, lambda: (stem / "metrics.jsonl").exists() and (stem / "metrics.jsonl").stat().st_size)
        part = json.loads((stem / ".lock").read_text())["process"]
        os.kill(part, signal.SIGSTOP)  # as one whose step is long
        os.killpg(started.pid, signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            started.wait(4)
        os.kill(part, signal.SIGCONT)
        assert started.wait(60) == 130
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
    assert load_checkpoint(stem / "checkpoint.pt")["iteration"] > 0
    assert (stem / "out.txt").read_text().startswith("interrupted: ")


def test_a_part_that_fails_is_reported_and_the_others_go_on(program, images):
    code, out, error = program("--tables", "1", "--set", "mlc.start_epoch=1", "--set", "model.centerness_on=reg")
    assert code == 1 and "is no setting of 'fcos-'" in out and "4 of 4 parts are not" in error


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (
            ["--tables", "1,5"],
            "extension, extension_rpn, extension_related, related, related_retinanet, related_candidates, not '5'",
        ),
        (["--tables", ""], "not ''"),
        (["--rows", "fcos-,fcos-_mll"], "--rows: there are fcos-, fcos-_alignment, "),
        (["--tables", "4", "--rows", "fcos-_ml"], "--tables 4 has no row of fcos-_ml"),
        (["--tables", "1,4", "--against", "rpn"], "--against: table 1 has no row 'rpn'"),
        (["--detectors", "fcos-,fcos"], "--detectors: there are fcos-, retinanet, rpn, not 'fcos'"),
        (["--tables", "4", "--detectors", "fcos-"], "--tables 4 has no row of fcos-"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--held-back", "0.5"], "--classes and --held-back are for --data DIR"),
        (["--data", "x", "--held-back", "1"], "--held-back must be in 0..1, got 1.0"),
        (["--data", "x", "--split", "test"], "--split test needs --held-back SHARE"),
        (["--data", "x", "--split", "all"], "--split all needs --held-back SHARE"),
        (["--split", "all"], "--split all is for --data DIR"),
    ],
)
def test_bad_options(paper, capsys, arguments, reported):
    with pytest.raises(SystemExit) as end:
        paper["program"].main(arguments)
    assert end.value.code == 2 and reported in capsys.readouterr().err


def test_a_bad_setting(paper, images, capsys, tmp_path):
    arguments = ["--data", str(images), "--out", str(tmp_path), "--set", "schedule.epoch=3"]
    assert paper["program"].main(arguments) == 2
    assert "unknown setting 'schedule.epoch'; did you mean 'schedule.epochs'" in capsys.readouterr().err
