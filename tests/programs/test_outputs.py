"""Outputs of train.py, evaluate.py and report.py that cannot be written, and paths that would mean another folder."""

import json
import os
from pathlib import Path

import pytest
import torch
from full_disks import full_disk
from small_runs import config_of

from mlc_ext.detectors import evaluate, report, train
from mlc_ext.detectors.config.overrides import from_dict, override
from mlc_ext.detectors.config.paths import PATHS, with_absolute_paths
from mlc_ext.detectors.config.settings import Config
from mlc_ext.detectors.data.generated.dataset import generate
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.evaluation.coco_metrics import CocoEvaluator
from mlc_ext.detectors.runs.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with data/, with a run on it named by a relative path, and with another set, other/data."""
    folder = tmp_path_factory.mktemp("outputs")
    generate(folder / "data", num_train=7, num_val=3, image_size=64)
    generate(folder / "other" / "data", num_train=7, num_val=3, image_size=64, seed=1)
    here, threads = os.getcwd(), torch.get_num_threads()
    os.chdir(folder)
    try:
        Trainer(config_of("fcos_minus_r50_mlc", "run", 1, data__data="data"), progress=False).run()
    finally:
        os.chdir(here)
        torch.set_num_threads(threads)
    return folder


@pytest.fixture
def program(folder, monkeypatch, capsys):
    """A program's main in the folder: exit code, stdout, stderr."""

    def run(program, *arguments):
        code = program.main([*map(str, arguments)])
        return code, *capsys.readouterr()

    monkeypatch.chdir(folder)
    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


def settings():
    """train.py's options for a small model on the CPU."""
    config = config_of("fcos_minus_r50_mlc", "unused", 1).to_dict()
    chosen = [f"--set={part}.{key}={value}" for part in ("model", "schedule") for key, value in config[part].items()]
    return [*chosen, "--set=run.device=cpu", "--set=data.short_side=96", "--set=data.long_side=96", "--quiet"]


def test_saved_paths_are_absolute(folder):
    for saved in (
        json.loads((folder / "run" / "config.json").read_text()),
        load_checkpoint(folder / "run" / "checkpoint.pt")["config"],
    ):
        config = from_dict(saved)
        assert (config.data.data, config.run.out) == (str(folder / "data"), str(folder / "run"))
        assert config.data.val_images is None and config.model.weights is None


def test_every_setting_that_is_a_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = Config()
    for name in PATHS:
        config = override(config, name, "deep/../x")
    absolute = with_absolute_paths(config)
    for name in PATHS:
        section, _, key = name.partition(".")
        assert getattr(getattr(absolute, section), key) == str(tmp_path / "x")
    assert with_absolute_paths(absolute) == absolute
    assert with_absolute_paths(override(Config(), "model.weights", "imagenet")).model.weights == "imagenet"


def test_evaluation_from_another_folder_is_on_the_runs_data(program, folder, monkeypatch):
    code, here, _ = program(evaluate, "run/checkpoint.pt", "--device", "cpu")
    (kept,) = [path.name for path in (folder / "run" / "evaluations").iterdir()]
    monkeypatch.chdir(folder / "other")  # which has a data/ of its own
    code, there, _ = program(evaluate, "../run/checkpoint.pt", "--device", "cpu")
    again = there.splitlines()
    assert again.pop(1) == (
        f"evaluated before, detections read from ../run/evaluations/{kept}; --again computes them again"
    )
    assert code == 0 and again[:-3] == here.splitlines()[:-3]
    assert here.splitlines()[0] == f"validation set: {folder}/data/annotations/instances_val.json"
    code, other, _ = program(evaluate, "../run/checkpoint.pt", "--device", "cpu", "--data", "data")
    assert other.splitlines()[0] == f"validation set: {folder}/other/data/annotations/instances_val.json"
    assert other.splitlines()[1:-3] != here.splitlines()[1:-3]


def test_a_run_with_relative_paths_goes_on_with_absolute_ones(program, folder):
    config = config_of("fcos_minus_r50_mlc", "run", 1, data__data="data")
    Trainer(config, progress=False).resume("run/checkpoint.pt")
    Trainer(override(config, "data.data", str(folder / "data")), progress=False).resume("run/checkpoint.pt")
    with pytest.raises(ValueError, match="data.data was '.*/data', is '.*/other/data'"):
        Trainer(override(config, "data.data", "other/data"), progress=False).resume("run/checkpoint.pt")


def test_the_folder_of_results_is_made(program):
    code, out, _ = program(evaluate, "run/checkpoint.pt", "--device", "cpu", "--results", "new/deep/d.json")
    assert code == 0 and isinstance(json.loads(Path("new/deep/d.json").read_text()), list)


@pytest.mark.parametrize("results", ["run", "run/config.json/d.json", "n" * 300, ""])
def test_results_that_cannot_be_written_are_found_before_the_work(program, monkeypatch, results):
    monkeypatch.setattr(evaluate, "load_for_evaluation", lambda *_, **__: pytest.fail("the work has begun"))
    code, out, error = program(evaluate, "run/checkpoint.pt", "--device", "cpu", "--results", results)
    assert (code, out) == (2, "") and error.startswith("evaluate.py: [Errno ") and error.count("\n") == 1


def test_a_disk_that_is_full_after_the_evaluation_leaves_the_metrics(program, monkeypatch):
    row = {"image_id": 1, "category_id": 1, "bbox": [0.0, 0.0, 5.0, 5.0], "score": 0.5}
    monkeypatch.setattr(CocoEvaluator, "results", lambda _: [row] * 200)
    with full_disk(5000):
        code, out, error = program(evaluate, "run/checkpoint.pt", "--device", "cpu", "--results", "d.json")
    assert code == 2 and "corr(gt)" in out and error.endswith("File too large: 'd.json'\n")


@pytest.mark.parametrize("value", ["", " "])
def test_an_unset_variable_is_not_the_runs_own_data(program, value):
    code, _, error = program(evaluate, "run/checkpoint.pt", "--data", value)
    assert code == 2 and "data.data must not be empty" in error
    assert program(train, "--resume", value)[0] == 2 and program(train, "--preset", value)[0] == 2


@pytest.mark.parametrize(
    "blocked", ["checkpoint.pt", "metrics.jsonl", "metrics.json", "results.json", "config.json", "log.txt"]
)
def test_a_run_whose_files_cannot_be_written_does_not_begin(program, blocked):
    os.makedirs(f"blocked{blocked}/{blocked}")
    code, out, error = program(train, "--out", f"blocked{blocked}", *settings(), "--set=mlc.start_epoch=0.5")
    assert code == 2 and f"Is a directory: 'blocked{blocked}/{blocked}'" in error and error.count("\n") == 1
    assert "images" not in out


def test_the_second_of_two_runs_is_tried_before_the_first(program):
    Path("both").mkdir()
    Path("both/MLC").touch()
    code, out, error = program(train, "--compare", "--out", "both", *settings())
    assert (code, out) == (2, "") and "Not a directory: 'both/MLC'" in error


def test_a_disk_that_fills_up_is_a_line_with_the_file_also_in_the_log(program):
    with full_disk(200_000):
        code, _, error = program(train, "--out", "full", "--data", "data", *settings(), "--set", "run.save_every=1")
    assert code == 2 and error.splitlines()[-1] == "train.py: [Errno 27] File too large: 'full/checkpoint.pt'"
    assert "File too large: 'full/checkpoint.pt'" in Path("full/log.txt").read_text()
    assert not any(name.startswith(".") for name in os.listdir("full"))


def test_a_log_that_cannot_grow_is_a_line_and_the_run_goes_on(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    trainer = Trainer(config_of("fcos_minus_r50", "log", 1, data__data="data"), progress=False)
    Path("log/log.txt").unlink()
    handler = next(h for h in train.LOG.handlers if getattr(h, "baseFilename", "").endswith("log.txt"))
    handler.stream.close()
    handler.stream = open("/dev/full", "w")
    assert trainer.run()["AP"] >= 0
    error = capsys.readouterr().err
    assert error == f"{handler.baseFilename}: [Errno 28] No space left on device\n"
    handler.stream = None


@pytest.mark.parametrize("out", ["run/config.json/x.html", "run", "file.html"])
def test_a_report_that_cannot_be_written_is_found_before_the_work(program, monkeypatch, out):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(report, "make_report", lambda *_, **__: pytest.fail("the work has begun"))
    Path("file_charts").touch()
    code, printed, error = program(report, "run", "--out", out)
    assert (code, printed) == (2, "") and error.startswith("report.py: ") and error.count("\n") == 1
