"""An export without a validation split, trained, evaluated and reported; refusals on readable lines."""

from __future__ import annotations

import json
import math
import shutil

import pytest
from coco_files import box, entry
from PIL import Image
from small_runs import finish, history, start, train_here

from mlc_ext.detectors import evaluate, report
from mlc_ext.detectors.data.coco.part import Part


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Label Studio's layout."""
    root = tmp_path_factory.mktemp("own") / "export"
    (root / "images").mkdir(parents=True)
    for key in range(1, 21):
        Image.new("RGB", (40, 30), (key, 0, 0)).save(root / "images" / f"0a1b2c3d-{key}.png")
    content = {
        "images": [entry(key, rf"images\1/0a1b2c3d-{key}.png") for key in range(1, 21)],
        "annotations": [box(key) | {"id": key} for key in range(1, 21)],
        "categories": [{"id": 3, "name": "bird"}],
    }
    (root / "result.json").write_text(json.dumps(content))
    return root


def train(capsys, export, *arguments):
    return train_here(capsys, "--data", str(export), "--epochs", "1", *arguments,
                      **{"schedule.batch_size": 8, "run.correlation": "false"})  # fmt: skip


def held_out(seed):
    """The ids of the images that data.val_fraction=0.25 holds out."""
    return [key for key in range(1, 21) if rf"images\1/0a1b2c3d-{key}.png" in Part(0.25, seed, True)]


def test_a_run_with_a_held_out_part(export, tmp_path, monkeypatch, threads, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, _ = train(capsys, export, "--out", "run", "--set", "data.val_fraction=0.25", "--set", "data.val_seed=3")
    held = held_out(3)
    line = "held out by data.val_fraction=0.25, data.val_seed=3"
    assert code == 0 and f"result.json ({line}): {len(held)} images" in out
    assert f"validation images: {len(held)}, {line}" in (tmp_path / "run" / "log.txt").read_text()
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert (saved["val_fraction"], saved["val_seed"]) == (0.25, 3)
    assert evaluate.main(["run/checkpoint.pt", "--device", "cpu", "--results", "found.json"]) == 0
    assert capsys.readouterr().out.startswith(f"validation set: {export}/result.json ({line})\n")
    assert {each["image_id"] for each in json.loads((tmp_path / "found.json").read_text())} <= set(held)
    shutil.copytree(export, tmp_path / "moved")  # the same part of a copy; the split of a set that has one
    shutil.copytree(export / "images", tmp_path / "split" / "valid")
    shutil.copy(export / "result.json", tmp_path / "split" / "valid" / "_annotations.coco.json")
    for folder, shown in (("moved", f"result.json ({line})"), ("split", "valid/_annotations.coco.json")):
        assert evaluate.main(["run/checkpoint.pt", "--device", "cpu", "--data", folder]) == 0
        assert capsys.readouterr().out.startswith(f"validation set: {tmp_path / folder / shown}\n")


def test_two_processes_hold_out_the_same_images(export, tmp_path):
    """torchrun: else the training refuses to start, as each process would have other images."""
    settings = {"data.val_fraction": 0.25, "data.val_seed": 3, "schedule.batch_size": 8, "run.correlation": "false"}
    options = ("--data", export, "--epochs", "1", "--out", "run")
    code, out, error = finish(start(tmp_path, *options, ranks=2, **settings))
    assert code == 0, error
    held, line = held_out(3), "held out by data.val_fraction=0.25, data.val_seed=3"
    assert out.count(f"result.json ({line}): {len(held)} images") == 1
    steps = math.ceil((20 - len(held)) / 8)
    assert [entry["iteration"] for entry in history(tmp_path / "run")] == [*range(1, steps + 1), steps]


def test_refusals_are_on_lines(export, tmp_path, monkeypatch, threads, capsys):
    monkeypatch.chdir(tmp_path)
    printed = {"train.py": train(capsys, export, "--out", "run")[2]}
    assert train(capsys, export, "--out", "run", "--set", "data.val_fraction=0.25")[0] == 0
    other = tmp_path / "other"
    (other / "photos").mkdir(parents=True)
    assert evaluate.main(["run/checkpoint.pt", "--device", "cpu", "--data", str(other)]) == 2
    printed["evaluate.py"] = capsys.readouterr().err
    assert report.main(["run", "--device", "cpu", "--data", str(other)]) == 2
    printed["report.py"] = capsys.readouterr().err
    for program, text in printed.items():
        first, *lines = text.rstrip("\n").splitlines()
        assert first == f"{program}: data set not found; looked for" and len(lines) >= 8, program
        assert max(map(len, lines)) < 100 + len(str(tmp_path))
        place = export if program == "train.py" else other
        assert any(line.startswith(f"in {place}, which has ") for line in lines)
    hint = "The training split is there (Label Studio COCO): --set data.val_fraction=0.2 holds out a part of it."
    assert hint in printed["train.py"] and hint not in printed["evaluate.py"]
