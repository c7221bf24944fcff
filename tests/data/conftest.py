"""train.py on a small COCO data set."""

from __future__ import annotations

import pytest
from coco_files import box, write_coco
from small_runs import train_here


@pytest.fixture
def program(tmp_path, monkeypatch, threads, capsys):
    """train.py on a data set of 40 x 30 images in tmp_path/data: arguments -> exit code, stdout, stderr."""
    for split in ("train", "val"):
        (tmp_path / "data" / "annotations").mkdir(parents=True, exist_ok=True)
        _, path = write_coco(tmp_path / "data" / split, [box(1) | {"id": 1}, box(2) | {"id": 2}])
        path.rename(tmp_path / "data" / "annotations" / f"instances_{split}.json")
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **settings):
        changes = {"data.long_side": 128, "schedule.batch_size": 2, "run.correlation": "false"} | settings
        return train_here(capsys, "--data", "data", "--epochs", "1", "--out", "run", *arguments, **changes)

    return run
