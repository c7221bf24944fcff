"""Broken data in a run: found at the start or at loading, and reported in one line, as in docs/faults.md."""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from coco_files import box, entry, noise, write_coco
from PIL import Image
from torch.utils.data import Dataset

from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.settings import Config
from mlc_ext.detectors.data.build import build_datasets, build_validation_set
from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.errors import DataError, ImageDecodeError
from mlc_ext.detectors.data.loading.loader import build_loader
from mlc_ext.detectors.data.loading.worker_processes import death_of_worker

FAULTS = (Path(__file__).resolve().parents[2] / "docs" / "faults.md").read_text()


def test_data_faults_are_tested_as_documented():
    """Every row of the data's table names tests that exist."""
    rows = FAULTS.split("## Data")[1].split("\n## ")[0].splitlines()
    names = [re.findall(r"`(test_\w+)`", row) for row in rows if row.startswith("| ") and "`test_" in row]
    assert len(names) >= 39
    defined = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    for name in (name for found in names for name in found):
        assert f"def {name}(" in defined, name


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", [False, True])
def test_verify_leaves_broken_images_out(tmp_path, workers, cache):
    images = [entry(k) for k in range(1, 40)]
    paths = write_coco(tmp_path, [box(k, (1, 1, k, 5)) for k in range(1, 40)], images=images, files=False)
    for k in range(1, 40):
        Image.new("RGB", (40, 30), (k, k, k)).save(tmp_path / f"{k}.png")
    (tmp_path / "5.png").write_bytes((tmp_path / "5.png").read_bytes()[:50])
    (tmp_path / "39.png").write_bytes(b"no")
    noise(31, 40).save(tmp_path / "20.png")
    torch.manual_seed(0)
    state = torch.get_rng_state()
    dataset = CocoDetection(*paths, cache=cache)
    dataset.verify(workers=workers)
    assert torch.equal(torch.get_rng_state(), state)
    assert dataset.image_ids == [k for k in range(1, 40) if k not in (5, 20, 39)]
    assert dict(dataset.findings.dropped) == {"broken images": 3, "annotations of broken images": 3}
    for index, image_id in enumerate(dataset.image_ids):  # images, boxes and files stay together
        image, target = dataset[index]
        assert (image == image_id).all() and target["boxes"].tolist() == [[1, 1, min(1 + image_id, 40), 6]]
    assert not dataset.findings.broken
    with pytest.raises(ValueError, match=r"3 of 39 images cannot be used: .*5\.png.*20\.png.*39\.png"):
        CocoDetection(*paths, strict=True).verify(workers=workers)


def test_verify_with_nothing_left(tmp_path):
    paths = write_coco(tmp_path, [box(1)])
    for k in (1, 2, 3):
        (tmp_path / f"{k}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="3 of 3 images cannot be used"):
        CocoDetection(*paths).verify()


def _verify_on_rank(rank: int, folder: Path, queue) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    dataset = CocoDetection(folder, folder / "instances.json")
    dataset.verify()
    queue.put((rank, dataset.image_ids))
    torch.distributed.destroy_process_group()


def test_verify_agrees_on_all_ranks(tmp_path):
    write_coco(tmp_path, [box(1)], images=[entry(k) for k in range(1, 8)])
    for k in (2, 5):  # one in each rank's half
        (tmp_path / f"{k}.png").write_bytes(b"")
    context = torch.multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    ranks = [context.Process(target=_verify_on_rank, args=(rank, tmp_path, queue)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    assert sorted([queue.get(), queue.get()]) == [(0, [1, 3, 4, 6, 7]), (1, [1, 3, 4, 6, 7])]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_does_not_end_an_epoch(tmp_path, workers, caplog):
    paths = write_coco(tmp_path, [box(k) for k in (1, 2, 3)])
    (tmp_path / "2.png").write_bytes(b"")
    dataset = CocoDetection(*paths)
    with caplog.at_level(logging.WARNING, "mlc_ext.detectors"):
        batches = list(build_loader(dataset, 1, shuffle=False, num_workers=workers))
    assert [targets[0]["image_id"] for _, targets in batches] == [1, 3, 3]
    assert all("skipped" not in targets[0] for _, targets in batches)
    assert list(dataset.findings.broken) == ["2.png"] and "1 broken images" in dataset.summary()
    assert sum("image skipped" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_strict_ends_the_epoch_in_a_line(tmp_path, workers):
    paths = write_coco(tmp_path, [box(k) for k in (1, 2, 3)])
    (tmp_path / "2.png").write_bytes(b"")
    loader = build_loader(CocoDetection(*paths, strict=True), 1, shuffle=False, num_workers=workers)
    with pytest.raises(ImageDecodeError, match=r"2\.png cannot be decoded: an empty file$"):
        list(loader)


@pytest.mark.parametrize("kept", [False, True])
def test_workers_end_with_their_loader_after_an_error(tmp_path, monkeypatch, kept):
    """Also where the error has left a reference cycle. torch terminates those that have not ended in five seconds."""
    terminated: list[int] = []
    monkeypatch.setattr(multiprocessing.Process, "terminate", lambda worker: terminated.append(worker.pid))
    paths = write_coco(tmp_path, [box(k) for k in (1, 2, 3)])
    (tmp_path / "2.png").write_bytes(b"")
    before = set(multiprocessing.active_children())
    gc.disable()
    try:
        loader = build_loader(
            CocoDetection(*paths, strict=True), 1, shuffle=False, num_workers=2, persistent_workers=kept
        )
        with pytest.raises(ImageDecodeError):
            list(loader)
        started = set(multiprocessing.active_children()) - before
        assert len(started) == (2 if kept else 0)
        del loader
    finally:
        gc.enable()
    gc.collect()
    assert [worker.exitcode for worker in started] == [0] * len(started) and not terminated


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_all_vanish_end_the_epoch(tmp_path, workers):
    dataset = CocoDetection(*write_coco(tmp_path, [box(1)]))
    for k in (1, 2, 3):
        (tmp_path / f"{k}.png").unlink()
    with pytest.raises(DataError, match="none of the 3 images in .* can be read: .*No such file"):
        list(build_loader(dataset, 1, shuffle=False, num_workers=workers))


class Deadly(Dataset):
    """The worker that loads item 5 is killed, as the system does when memory is short."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(3, 4, 4, dtype=torch.uint8), {"image_id": index}


def test_a_killed_worker_ends_the_run():
    began = time.monotonic()
    with pytest.raises((DataError, RuntimeError)) as error:
        for _ in build_loader(Deadly(), 2, shuffle=False, num_workers=2):
            time.sleep(0.01)
    reported = error.value if isinstance(error.value, DataError) else death_of_worker(error.value)
    assert re.search(
        r"a process that loads data died \((DataLoader worker \(pid|\w+Error).*data.workers=0", str(reported)
    )
    assert time.monotonic() - began < 60


def test_other_errors_are_no_death_of_a_worker():
    assert death_of_worker(RuntimeError("CUDA out of memory")) is None


SIGNALED = """
import os, signal, subprocess, time
import torch
from mlc_ext.detectors.data.loading.loader import build_loader
from mlc_ext.detectors.data.loading.worker_processes import start_worker

class Pids(torch.utils.data.Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        return torch.zeros(3, 4, 4, dtype=torch.uint8), {"image_id": os.getpid()}

def stuck(ready):
    start_worker(0)
    ready.set()
    time.sleep(600)

# a scheduler's SIGTERM reaches all processes; the main one ends the run, with a checkpoint
iterator = iter(build_loader(Pids(), 1, shuffle=False, num_workers=1))
worker = next(iterator)[1][0]["image_id"]
assert worker != os.getpid()
subprocess.run(["kill", "-TERM", str(worker)], check=True)  # not from this process, because workers obey its SIGTERM
os.kill(worker, signal.SIGINT)
assert len(list(iterator)) == 63
# one that is stuck, at exit
context = torch.multiprocessing.get_context("fork")
ready = context.Event()
process = context.Process(target=stuck, args=(ready,))
process.start()
assert ready.wait(60)
process.terminate()
process.join(30)
assert process.exitcode == 0, process.exitcode
"""


def test_workers_leave_signals_to_the_main_process_which_can_end_them():
    """In a process of its own: other tests leave threads behind, which signals may reach instead."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", SIGNALED], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_run_reports_what_it_left_out(program, tmp_path):
    (tmp_path / "data" / "train" / "3.png").write_bytes(b"")
    code, out, error = program(**{"data.verify": "true", "data.cache": "true"})
    assert code == 0, error
    assert "train.json: 2 images, 2 boxes (0 crowd), 3 categories; dropped: 1 broken images" in out
    assert "dropped: 1 broken images" in (tmp_path / "run" / "log.txt").read_text()
    code, _, error = program("--strict", **{"data.verify": "true"})
    assert code == 2 and error.startswith("train.py: ") and "3.png cannot be decoded: an empty file" in error
    code, _, error = program("--strict")
    assert code == 2 and re.fullmatch(r"train\.py: \S*3\.png cannot be decoded: an empty file\n", error)


def test_nothing_to_learn_ends_the_run(program, tmp_path):
    path = tmp_path / "data" / "annotations" / "instances_train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": [box(1, (5, 5, 0, 0))]}))
    code, _, error = program()
    assert code == 2 and "nothing to learn, no object in" in error and "1 boxes without area" in error


def test_other_categories_in_validation_end_the_run(program, tmp_path):
    path = tmp_path / "data" / "annotations" / "instances_val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"categories": [{"id": 3, "name": "cat"}]}))
    code, _, error = program()
    val, train = (f"data/annotations/instances_{split}.json" for split in ("val", "train"))
    assert code == 2 and f"the categories of {val} are not those of {train}: only in {train}: " in error


def test_a_killed_worker_ends_training(program, monkeypatch):
    load = CocoDetection.load_image

    def deadly(self, index, *note):
        if torch.utils.data.get_worker_info() is not None and self.image_ids[index] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, index, *note)

    monkeypatch.setattr(CocoDetection, "load_image", deadly)
    code, _, error = program(**{"data.workers": "2"})
    assert code == 2 and error.count("\n") == 1
    assert error.startswith("train.py: a process that loads data died (")


def test_several_scales_in_training_one_in_evaluation(program, tmp_path):
    config = Config()
    for key, value in {"data.data": "data", "data.short_side": "24,30,36", "data.long_side": "64"}.items():
        config = override(config, key, value)
    train_set, val_set = build_datasets(config, tmp_path)
    seen = {min(train_set[0][0].shape[1:]) for _ in range(60)}
    assert seen == {24, 30, 36} and min(val_set[0][0].shape[1:]) == 36
    fixed = build_validation_set(override(config, "data.eval_short_side", "30"), tmp_path)
    assert min(fixed[0][0].shape[1:]) == 30
    assert build_validation_set(override(config, "data.val_is_train", "true"), tmp_path).image_dir.name == "train"
