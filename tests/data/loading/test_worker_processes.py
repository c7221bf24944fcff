"""Loader processes without memory or open files: the run continues or ends with one line, and never hangs."""

from __future__ import annotations

import itertools
import multiprocessing.queues
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from coco_files import box, write_coco
from torch.utils.data import Dataset

from mlc_ext.detectors.data.coco import dataset as reading
from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.errors import DataError, StarvedLoader
from mlc_ext.detectors.data.loading import worker_processes
from mlc_ext.detectors.data.loading.loader import build_loader
from mlc_ext.detectors.data.loading.shared_batch import pack
from mlc_ext.detectors.data.loading.worker_processes import END_AFTER, POLL, batches, death_of_worker

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import sys, torch
from torch.utils.data import Dataset
from mlc_ext.detectors.data.loading.loader import build_loader

class Images(Dataset):
    def __len__(self):
        return {images}
    def __getitem__(self, index):
        target = dict(boxes=torch.full((3, 4), index), labels=torch.ones(3), area=torch.ones(3), image_id=index)
        return torch.full((3, {height}, 1000), index % 256, dtype=torch.uint8), target

seen, held = [], []
try:
    for images, targets in build_loader(Images(), {batch}, shuffle=False, num_workers=4):
        for image, target in zip(images, targets):
            assert (image == target["image_id"] % 256).all() and (target["boxes"] == target["image_id"]).all()
            seen.append(target["image_id"])
        held += [(images, targets)] if {hold} else []
    print(seen == list(range({images})))
except RuntimeError as error:
    print(type(error).__name__, error)
"""


def run(before: str, **values) -> tuple[str, str]:
    """stdout and stderr of the program, in a shell that has run ``before``."""
    command = ["sh", "-c", f'{before} && exec "$0" -W ignore -c "$1"', sys.executable, PROGRAM.format(**values)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stdout, done.stderr


def test_more_tensors_than_the_descriptor_limit():
    """Every batch has 512 tensors, and they are all kept."""
    out, error = run("ulimit -n 100", images=1024, batch=128, height=2, hold=True)
    assert out == "True\n" and not error


def test_the_descriptor_limit_is_named():
    out, _ = run("ulimit -n 60", images=4096, batch=8, height=2, hold=True)
    assert re.fullmatch(r"StarvedLoader too many open files: the limit is 60.*ulimit -n.*data.workers\n", out)


def _can_mount() -> bool:
    command = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not _can_mount(), reason="no namespace to mount a small /dev/shm in")
def test_a_small_shared_memory():
    """8 batches of 24 MB are prepared in 64 MiB."""
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    inner = f'{mount} && exec "$0" -W ignore -c "$1"'
    program = PROGRAM.format(images=80, batch=8, height=1000, hold=False)
    command = ["unshare", "-Urm", "sh", "-c", inner, sys.executable, program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True\n" and "Traceback" not in done.stderr
    reported = [line for line in done.stderr.splitlines() if "shared memory fails" in line]
    assert len(reported) == 1 and "/dev/shm has 64 MiB" in reported[0]


def test_a_packed_batch_is_the_batch():
    batch = (
        [torch.arange(24, dtype=torch.uint8).reshape(3, 2, 4), torch.zeros(3, 0, 4, dtype=torch.uint8)],
        [{"boxes": torch.rand(2, 4), "n": 3, "name": "a", "size": (3, 4)}, {"crowd": torch.tensor([True, False]),
          "area": torch.tensor(2.5, dtype=torch.float64), "boxes": torch.zeros(0, 4), "t": torch.rand(4, 6).T}],
    )  # fmt: skip
    for packed in (pack(batch), pack([])):
        assert packed.problem is None and packed.buffer.is_shared()
    images, targets = pack(batch).unpack()
    assert isinstance(targets[0]["size"], tuple) and (targets[0]["n"], targets[0]["name"]) == (3, "a")
    for own, theirs in zip((images, *map(dict.values, targets)), (batch[0], *map(dict.values, batch[1])), strict=True):
        for one, other in zip(own, theirs, strict=True):
            assert type(one) is type(other)
            if isinstance(one, torch.Tensor):
                assert one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("No space left on device")])
def test_without_shared_memory_a_batch_is_sent_through_a_pipe(monkeypatch, error):
    def refuse(size):
        raise error

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", refuse)
    packed = pack([torch.arange(5)])
    assert packed.problem == str(error) and not isinstance(packed.buffer, torch.Tensor)
    assert packed.unpack()[0].tolist() == [0, 1, 2, 3, 4]


class Slow(Dataset):
    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def __len__(self):
        return 4

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return torch.zeros(3, 4, 4, dtype=torch.uint8), {"image_id": index}


def test_a_wait_is_reported_and_ends(monkeypatch, caplog):
    for name, value in (("POLL", 0.1), ("REPORT_AFTER", 0.2), ("END_AFTER", 1.0)):
        monkeypatch.setattr(worker_processes, name, value)
    loader = build_loader(Slow(60), 2, shuffle=False, num_workers=1)
    loader.loader.timeout = 0.1
    with pytest.raises(StarvedLoader, match=r"no batch came for 1 s; /dev/shm has .* MiB.*; open files: the limit is"):
        next(iter(loader))
    assert sum(message.startswith("no batch came for 0 s") for message in caplog.messages) == 1


class Expiring:
    """An iterator like the DataLoader's, whose first waits for a batch expire."""

    def __init__(self, expired):
        self.expired = expired

    def __iter__(self):
        return self

    def __next__(self):
        self.expired -= 1
        if self.expired >= 0:
            raise RuntimeError("DataLoader timed out after 5 seconds")
        return "a batch"


def test_a_suspended_process_has_not_waited(monkeypatch):
    """The clock continues while a process is suspended; only expired waits count."""
    clock = itertools.count(step=3600.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    most = round(END_AFTER / POLL) - 1
    assert next(batches(Expiring(most), set())) == "a batch"
    with pytest.raises(StarvedLoader, match="no batch came for 1200 s"):
        next(batches(Expiring(most + 1), set()))


class Cut:
    """The iterator of a loader, with a broken connection to its workers."""

    def __init__(self, iterator):
        self.iterator = iterator

    def __iter__(self):
        return self

    def __next__(self):
        raise ConnectionResetError("reset by peer")

    def __getattr__(self, name):
        return getattr(self.iterator, name)


def test_a_lost_worker_raises_once():
    """torch's handler of SIGCHLD raises for a worker that dies after its connection broke."""
    loader = build_loader(Slow(60), 2, shuffle=False, num_workers=1)
    iterator = iter(loader.loader)
    worker = iterator._workers[0]
    end = threading.Timer(1, lambda: worker.is_alive() and os.kill(worker.pid, signal.SIGKILL))
    end.start()
    with pytest.raises(DataError, match=r"a process that loads data died \(ConnectionResetError: reset by peer\)"):
        next(batches(Cut(iterator), set()))
    end.join()
    for _ in range(50):  # the handler would run here
        time.sleep(0.01)


def test_a_slow_batch_is_waited_for():
    loader = build_loader(Slow(0.3), 2, shuffle=False, num_workers=1)
    loader.loader.timeout = 0.1
    assert [target["image_id"] for _, targets in loader for target in targets] == [0, 1, 2, 3]


class Unsendable(Slow):
    """Its items cannot be sent: the error is raised in a thread of the worker."""

    def __getitem__(self, index):
        return torch.zeros(3, 4, 4, dtype=torch.uint8), {"image_id": (_ for _ in ())}


def test_a_batch_that_cannot_be_sent_ends_the_wait():
    before = multiprocessing.queues.Queue._on_queue_feeder_error
    with pytest.raises((StarvedLoader, RuntimeError)) as error:
        list(build_loader(Unsendable(), 2, shuffle=False, num_workers=1))
    reported = error.value if isinstance(error.value, StarvedLoader) else death_of_worker(error.value)
    assert "a worker could not send a batch: /dev/shm has" in str(reported)
    assert multiprocessing.queues.Queue._on_queue_feeder_error is before  # changed only in the workers


def test_a_bus_error_names_shared_memory():
    error = RuntimeError(
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
        "shared memory. Please try to raise your shared memory limit."
    )
    assert re.search("no shared memory is left: /dev/shm has .* MiB.*--shm-size", str(death_of_worker(error)))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("verify", [False, True])
def test_a_file_that_the_limit_keeps_closed_is_no_broken_image(tmp_path, monkeypatch, workers, verify):
    paths = write_coco(tmp_path, [box(1)])

    def refuse(path):
        raise OSError(24, "Too many open files", str(path))

    monkeypatch.setattr(reading, "read_image", refuse)
    with pytest.raises(StarvedLoader, match="too many open files: the limit is") as error:
        dataset = CocoDetection(*paths)
        if verify:
            dataset.verify(workers=workers)
        list(build_loader(dataset, 2, shuffle=False, num_workers=workers))
    assert "\n" not in str(error.value)


STARTED_LATE = """
import os, resource
from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.loading.loader import build_loader

loader = build_loader(CocoDetection("{folder}", "{folder}/instances.json"), 2, shuffle=False, num_workers=4)
os.close(first_free := os.dup(2))
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, limits[1]))
try:
    list(loader)
except RuntimeError as error:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    print(type(error).__name__, error)
"""


def test_processes_that_cannot_start(tmp_path):
    write_coco(tmp_path, [box(1)])
    command = [sys.executable, "-W", "ignore", "-c", STARTED_LATE.format(folder=tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert re.fullmatch(r"StarvedLoader too many open files: the limit is \d+\. Raise.*\n", done.stdout), done.stderr
