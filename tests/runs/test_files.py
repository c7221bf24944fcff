"""Output files: tried before the work, written whole or not at all, and named by what goes wrong."""

import os
import stat
import subprocess
import sys

import pytest
import torch
from full_disks import full_disk

from mlc_ext.detectors.runs.checkpoint import load_checkpoint, save_checkpoint
from mlc_ext.detectors.runs.files import check_writable, replacing, write_whole
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


def test_a_link_stays_and_the_file_that_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_text("before")
    (tmp_path / "deep" / "link").symlink_to("file")
    link = tmp_path / "link"
    link.symlink_to("deep/link")
    check_writable(link)
    write_whole(link, "after")
    assert link.is_symlink() and (tmp_path / "deep" / "link").is_symlink()
    assert link.read_text() == (tmp_path / "deep" / "file").read_text() == "after"
    (tmp_path / "deep" / "file").unlink()
    write_whole(link, "new")  # also one that leads to no file yet
    assert link.is_symlink() and (tmp_path / "deep" / "file").read_text() == "new"
    assert sorted(os.listdir(tmp_path / "deep")) == ["file", "link"]
    assert sorted(os.listdir(tmp_path)) == ["deep", "link"]


@pytest.mark.parametrize("target", ["link", "absent/file", "folder", "/proc/self/fd/987"])
def test_a_link_that_leads_to_no_place_for_a_file(tmp_path, target):
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    for write in (check_writable, lambda path: write_whole(path, "text")):
        with pytest.raises(OSError, match=f"'{link}'"):
            write(link)
    assert os.readlink(link) == target


STDOUT = """
import sys
from pathlib import Path
from mlc_ext.detectors.runs.files import check_writable, replacing, write_whole
print("one", flush=True)
check_writable(Path(sys.argv[1]))
write_whole(Path(sys.argv[1]), "two\\n")
print("three", flush=True)
"""


@pytest.mark.parametrize("target", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_standard_output_redirected(tmp_path, target, kind):
    """The text stands between what is printed before and after it. By a link of the test's: none of /dev is at risk."""
    (tmp_path / "link").symlink_to(target)
    command = [sys.executable, "-c", STDOUT, "link"]
    if kind == "pipe":
        found = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, check=True, text=True).stdout
    else:
        with open(tmp_path / "out.txt", "w") as file:
            subprocess.run(command, cwd=tmp_path, stdout=file, check=True)
        found = (tmp_path / "out.txt").read_text()
    assert found == "one\ntwo\nthree\n"
    assert os.readlink(tmp_path / "link") == target
    assert set(os.listdir(tmp_path)) <= {"link", "out.txt"}


@pytest.mark.parametrize("name", ["n" * 253, "n" * 255, "\u732b" * 85, "n" + "\u732b" * 84], ids=len)
def test_every_name_that_a_file_may_have(tmp_path, name):
    path = tmp_path / name
    check_writable(path)
    write_whole(path, "text")
    assert path.read_text() == "text" and os.listdir(tmp_path) == [name]


LOCALE = """
import locale, logging, os
from pathlib import Path
from mlc_ext.detectors.runs.files import write_whole
from mlc_ext.detectors.runs.log_file import LOG, open_log
assert "UTF-8" not in locale.getpreferredencoding(False).upper()
text = "caf\\u00e9 \\u732b " + os.fsdecode(b"\\xff")
write_whole(Path("whole.txt"), text)
open_log(Path("log.txt"))
LOG.info("%s", text)
"""


def test_the_locale_does_not_matter(tmp_path):
    settings = os.environ | {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    subprocess.run([sys.executable, "-c", LOCALE], cwd=tmp_path, env=settings, check=True)
    expected = "caf\u00e9 \u732b \\udcff"  # what is no UTF-8 is escaped
    assert (tmp_path / "whole.txt").read_bytes().decode() == expected
    assert (tmp_path / "log.txt").read_bytes().decode().endswith(f" {expected}\n")


def test_the_file_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(tmp_path, monkeypatch):
    path, calls = tmp_path / "c.json", []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        found = os.fstat(descriptor)
        calls.append("folder" if stat.S_ISDIR(found.st_mode) else found.st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append("renamed") or replace(*paths))
    write_whole(path, "12345")
    assert calls == [5, "renamed", "folder"]
    with pytest.raises(ZeroDivisionError), replacing(path, before_rename=lambda: 1 // 0) as file:
        file.write(b"half")
    assert calls[3:] == [4] and path.read_text() == "12345" and os.listdir(tmp_path) == ["c.json"]
