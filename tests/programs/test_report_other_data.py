"""report.py on runs that were evaluated on different validation sets: a warning, and no differences between them."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from small_runs import config_of

from mlc_ext.detectors import report
from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.data.generated.dataset import generate
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.evaluation.metrics_table import shown
from mlc_ext.detectors.runs.checkpoint import load_checkpoint
from mlc_ext.detectors.runs.history import comparable, read_runs

pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install mlc-ext[report])")


@pytest.mark.parametrize(
    ("key", "value", "signed", "text"),
    [
        ("AP", -0.0, False, "0.0"),
        ("AP", -0.0004, True, "+0.0"),
        ("AP", 0.0004, True, "+0.0"),
        ("AP", -0.0, True, "+0.0"),
        ("AP", -0.0006, True, "-0.1"),
        ("AP", 0.457, False, "45.7"),
        ("correlation", -0.0004, False, "0.000"),
        ("correlation", -0.0006, False, "-0.001"),
        ("correlation", -0.0004, True, "+0.000"),
        ("AP", float("nan"), True, "-"),
        ("AP", float("-inf"), False, "-"),
    ],
)
def test_no_negative_zero(key, value, signed, text):
    assert shown(key, value, signed=signed) == text


def write_run(folder: Path, config, ap: float) -> Path:
    """A run's folder without a checkpoint: its settings and one evaluation."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json())
    (folder / "metrics.jsonl").write_text(json.dumps({"iteration": 4, "metrics": {"AP": ap}}) + "\n")
    return folder


def make(out, *folders, capsys):
    code = report.main([*map(str, folders), "--out", str(out), "--device", "cpu", "--quiet", "--images", "1"])
    assert code == 0
    return out.read_text(), capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"schedule.lr": 0.5, "data.short_side": 64, "data.train_annotations": "/x.json"}, True),
        ({"data.data": "/other"}, False),
        ({"data.val_annotations": "/x.json"}, False),
        ({"data.val_images": "/x"}, False),
        ({"data.val_is_train": True}, False),
        ({"data.val_fraction": 0.2}, False),
        ({"data.val_seed": 1}, True),  # of no effect without data.val_fraction
        ({"data.categories": ["cat"]}, False),
        ({"data.data": "there/../data"}, True),
    ],
)
def test_runs_without_checkpoints_are_compared_by_their_settings(tmp_path, monkeypatch, capsys, changes, same):
    monkeypatch.chdir(tmp_path)
    config = config_of("fcos_minus_r50", "x", data__data="data")
    other = config
    for name, value in changes.items():
        other = override(other, name, value)
    runs = write_run(tmp_path / "a", config, 0.457), write_run(tmp_path / "b", other, 0.3)
    page, error = make(tmp_path / "page.html", *runs, capsys=capsys)
    assert ("<small>-15.7</small>" in page) == same
    assert ("These metrics cannot be compared" in page) == (not same)
    assert ("Small: the difference from a" in page) == same
    assert ("b: evaluated on another validation set than a: no differences are shown" in error) == (not same)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"schedule.lr": 0.5, "run.seed": 1}, True),
        ({"data.val_fraction": 0.3}, False),
        ({"data.val_seed": 1}, False),
        ({"data.train_images": "/x", "data.train_annotations": "/x.json"}, False),
    ],
)
def test_other_images_held_out_are_another_set(tmp_path, changes, same):
    config = config_of("fcos_minus_r50", "x", data__data="data", data__val_fraction=0.2)
    other = config
    for name, value in changes.items():
        other = override(other, name, value)
    a, b = read_runs([write_run(tmp_path / name, each, 0.1) for name, each in (("a", config), ("b", other))])
    assert comparable(a, b) == same


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({"limit_val": 2}, {}, False),
        ({"limit_val": 2}, {"limit_val": 2, "limit_train": 5}, True),
        ({"limit_val": 2, "val_is_train": True}, {"limit_train": 2, "val_is_train": True}, True),
        ({"limit_train": 3, "val_is_train": True}, {"limit_train": 2, "val_is_train": True}, False),
        ({"val_fraction": 0.2}, {"val_fraction": 0.2, "limit_train": 2}, True),
        ({"val_fraction": 0.2}, {"val_fraction": 0.2, "limit_val": 2}, False),
    ],
)
def test_limits_on_the_images(tmp_path, first, second, same):
    """Two of the first two, however they were limited."""
    configs = [
        config_of("fcos_minus_r50", "x", data__data="data", **{f"data__{name}": value for name, value in each.items()})
        for each in (first, second)
    ]
    a, b = read_runs([write_run(tmp_path / str(k), config, 0.1) for k, config in enumerate(configs)])
    assert comparable(a, b) == same


def test_generated_sets_of_other_sizes_are_other_sets(tmp_path):
    configs = config_of("fcos_minus_r50", "x"), config_of("fcos_minus_r50", "x", data__generated_images=9)
    a, b = read_runs([write_run(tmp_path / str(k), config, 0.1) for k, config in enumerate(configs)])
    assert comparable(a, a) and not comparable(a, b)
    assert comparable(a, dataclasses.replace(b, config=None))  # not known to be another


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with its checkpoint on data/; copies of the data lie in same/ and, with an image less, in less/."""
    folder = tmp_path_factory.mktemp("trained")
    data = generate(folder / "data", num_train=4, num_val=3, image_size=64)
    shutil.copytree(data, folder / "same")
    shutil.copytree(data, folder / "less")
    path = folder / "less" / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["images"].pop()
    path.write_text(json.dumps(content))
    Trainer(config_of("fcos_minus_r50", folder / "run", 1, data__data=str(data)), progress=False).run()
    return folder


def moved(trained, name):
    """The same run as if it had been trained on another folder."""
    run = trained / f"on_{name}"
    shutil.copytree(trained / "run", run)
    for file in (run / "config.json", run / "checkpoint.pt"):
        if file.suffix == ".json":
            file.write_text(file.read_text().replace(str(trained / "data"), str(trained / name)))
        else:
            state = load_checkpoint(file)
            state["config"]["data"]["data"] = str(trained / name)
            torch.save(state, file)
    return run


def test_what_was_read_decides_before_the_settings(trained, tmp_path, capsys):
    same, less = moved(trained, "same"), moved(trained, "less")
    page, error = make(tmp_path / "page.html", trained / "run", same, less, capsys=capsys)
    rows = re.findall(r'<tr><th scope="row">(.*?)</tr>', page)
    found = {row.partition("<")[0]: "<small>" in row for row in rows if row.startswith(("run<", "on_"))}
    assert found == {"run": False, "on_same": True, "on_less": False}
    assert "on_less: evaluated on another validation set than run" in error and "on_same" not in error
    page, error = make(tmp_path / "page.html", trained / "run", less, capsys=capsys)
    assert "These metrics cannot be compared" in page
    code = report.main([str(trained / "run"), str(less), "--data", str(trained / "same"), "--out",
                        str(tmp_path / "x.html"), "--device", "cpu", "--quiet", "--images", "1"])  # fmt: skip
    assert code == 0 and "cannot be compared" not in (tmp_path / "x.html").read_text()  # both on the same set now
