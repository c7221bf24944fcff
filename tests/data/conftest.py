"""train.py on a small COCO data set."""

from __future__ import annotations

import pytest
import torch
from coco_files import box, write_coco

from mlc_ext.detectors import train

TINY = {
    "model.backbone": "resnet18",
    "model.weights": "none",
    "model.norm": "bn",
    "model.fpn_channels": "64",
    "model.num_convs": "1",
    "data.short_side": "96",
    "data.long_side": "128",
    "schedule.batch_size": "2",
    "run.device": "cpu",
    "run.threads": "1",
    "run.correlation": "false",
}


@pytest.fixture
def program(tmp_path, monkeypatch, capsys):
    """train.py on a data set of 40 x 30 images in tmp_path/data: arguments -> exit code, stdout, stderr."""
    for split in ("train", "val"):
        (tmp_path / "data" / "annotations").mkdir(parents=True, exist_ok=True)
        _, path = write_coco(tmp_path / "data" / split, [box(1) | {"id": 1}, box(2) | {"id": 2}])
        path.rename(tmp_path / "data" / "annotations" / f"instances_{split}.json")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def run(*arguments, **settings):
        sets = [part for key, value in (TINY | settings).items() for part in ("--set", f"{key}={value}")]
        code = train.main(["--data", "data", "--quiet", "--epochs", "1", "--out", "run", *arguments, *sets])
        return code, *capsys.readouterr()

    yield run
    torch.set_num_threads(threads)
