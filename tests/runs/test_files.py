"""Output files: tried before the work, written whole or not at all, and named by what goes wrong."""

import os

import pytest
import torch
from full_disks import full_disk

from mlc_ext.detectors.runs.checkpoint import load_checkpoint, save_checkpoint
from mlc_ext.detectors.runs.files import check_writable, write_whole
from mlc_ext.detectors.runs.metrics_log import MetricsLog


def test_a_trial_makes_the_folder_and_leaves_the_file_as_it_is(tmp_path):
    path = tmp_path / "a" / "b" / "c.json"
    check_writable(path)
    assert path.parent.is_dir() and list(path.parent.iterdir()) == []
    path.write_text("before")
    check_writable(path)
    assert path.read_text() == "before" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "Is a directory: '{}/folder'"),
        ("file/c.json", "Not a directory: '{}/file'"),
        ("file/deep/c.json", "Not a directory: '{}/file/deep'"),
        ("n" * 256, "File name too long: '{}/nnn"),
        ("loop/c.json", "'{}/loop'"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError) as error:
        check_writable(tmp_path / name)
    assert message.format(tmp_path) in str(error.value)


def test_a_full_disk(tmp_path):
    path, log = tmp_path / "c.json", tmp_path / "metrics.jsonl"
    path.write_text("before")
    with full_disk(1000):
        for write in (lambda: check_writable(path), lambda: write_whole(path, "x" * 2000)):
            with pytest.raises(OSError, match=f"'{path}'$"):
                write()
        metrics = MetricsLog(log)
        metrics.add({"iteration": 1})
        with pytest.raises(OSError, match=f"'{log}'$"):
            metrics.add({"iteration": 2, "text": "x" * 2000})
    assert path.read_text() == "before" and sorted(tmp_path.iterdir()) == [path, log]


@pytest.mark.parametrize("count", [2000, 200_000])
def test_a_full_disk_names_the_checkpoint_and_leaves_the_old_one(tmp_path, count):
    """In the first case torch writes the file at its end, in the other while it goes."""
    path = tmp_path / "checkpoint.pt"
    state = {"config": {}, "num_classes": 1, "iteration": 1}
    save_checkpoint(path, {**state, "model": {"w": torch.ones(3)}}, keep=2)
    with full_disk(6000), pytest.raises(OSError, match=f"File too large: '{path}'"):
        save_checkpoint(path, {**state, "model": {"w": torch.zeros(count)}}, keep=2)
    assert torch.equal(load_checkpoint(path)["model"]["w"], torch.ones(3)) and list(tmp_path.iterdir()) == [path]


def test_devices_and_pipes_stay_what_they_are(tmp_path):
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    check_writable(link)
    write_whole(link, "text")
    assert link.is_symlink() and list(tmp_path.iterdir()) == [link]
    link.unlink()
    link.symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"No space left on device: '{link}'"):
        write_whole(link, "text")
