"""One run at a time in a folder: refused by name, taken over from the dead, given back at the end."""

import fcntl
import gc
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from small_runs import config_of, finish, reached, start, wait_until

from mlc_ext.detectors.data.generated.dataset import generate
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.runs.lock import FolderLock

OTHER = """
import sys, time
from mlc_ext.detectors.runs.lock import FolderLock
lock = FolderLock(sys.argv[1])
try:
    print(lock.acquire(), flush=True)
except ValueError as error:
    print(error, flush=True)
    sys.exit(2)
sys.stdin.readline()
lock.release()
"""


def other(folder):
    """A process that holds the folder's lock until it gets a line; its first line of output."""
    process = subprocess.Popen([sys.executable, "-c", OTHER, str(folder)], text=True, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)  # fmt: skip
    return process, process.stdout.readline().strip()


def test_another_process_is_refused_until_the_end(tmp_path):
    mine = FolderLock(tmp_path)
    assert mine.acquire() is None
    owner = json.loads((tmp_path / ".lock").read_text())
    assert (owner["host"], owner["process"]) == (socket.gethostname(), os.getpid())
    process, said = other(tmp_path)
    assert process.wait(60) == 2
    assert said.startswith(f"{tmp_path} is in use by another run (process {os.getpid()} on {owner['host']} since ")
    mine.release()
    assert not list(tmp_path.iterdir())
    process, said = other(tmp_path)
    with pytest.raises(ValueError, match=rf"in use by another run \(process {process.pid} on "):
        FolderLock(tmp_path).acquire()
    process.communicate("\n", timeout=60)
    assert process.returncode == 0 and mine.acquire() is None
    mine.release()


def test_a_dead_owner_is_taken_over_from(tmp_path):
    process, _ = other(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    assert json.loads((tmp_path / ".lock").read_text())["process"] == process.pid
    mine = FolderLock(tmp_path)
    assert mine.acquire() is None
    assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    mine.release()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"host": "elsewhere", "process": 1, "since": "ever"}', b"\xff"]
)
def test_what_stands_in_the_file_does_not_hold_the_lock(tmp_path, content):
    (tmp_path / ".lock").write_bytes(content)
    mine = FolderLock(tmp_path)
    assert mine.acquire() is None
    mine.release()


def test_one_process_may_hold_it_twice(tmp_path):
    """A Trainer that was left over does not drop the lock of the next one when it is collected."""
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    assert first.acquire() is None and second.acquire() is None and first.acquire() is None
    first.release()
    first.release()
    assert other(tmp_path)[0].wait(60) == 2
    second.release()
    assert not list(tmp_path.iterdir())
    process, said = other(tmp_path)
    assert said == "None"
    process.communicate("\n", timeout=60)


FORKS = """
import os, sys, time
from mlc_ext.detectors.runs.lock import FolderLock
FolderLock(sys.argv[1]).acquire()
child = os.fork()
if child == 0:
    time.sleep(600)
print(child, flush=True)
sys.stdin.readline()
"""


def test_a_forked_process_does_not_hold_it(tmp_path):
    """A process that loads images outlives its run, which was killed."""
    owner = subprocess.Popen([sys.executable, "-c", FORKS, str(tmp_path)], text=True, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)  # fmt: skip
    child = int(owner.stdout.readline())
    try:
        assert other(tmp_path)[0].wait(60) == 2
        owner.kill()
        owner.wait(60)
        os.kill(child, 0)  # it is alive
        process, said = other(tmp_path)
        assert said == "None"
        process.communicate("\n", timeout=60)
    finally:
        owner.kill()
        os.kill(child, signal.SIGKILL)


def test_a_link_to_the_folder_is_the_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    mine = FolderLock(tmp_path / "run")
    mine.acquire()
    assert other(tmp_path / "link")[0].wait(60) == 2
    mine.release()


def test_a_file_that_the_owner_has_just_removed_is_not_locked(tmp_path, monkeypatch):
    """Between opening and locking the file its owner ends, and a third process makes a new one."""
    flock, rounds = fcntl.flock, []

    def slow(descriptor, how):
        if not rounds:
            os.unlink(tmp_path / ".lock")
            (tmp_path / ".lock").touch()
        rounds.append(descriptor)
        return flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    mine = FolderLock(tmp_path)
    mine.acquire()
    assert len(rounds) == 2 and other(tmp_path)[0].wait(60) == 2
    mine.release()


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    mine = FolderLock(tmp_path)
    assert mine.acquire() == f"{tmp_path} cannot be locked against other runs: No locks available"
    mine.release()


def test_a_trainer_gives_the_folder_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_of("fcos_minus_r50", tmp_path / "run", 2, run__correlation=False)
    trainer = Trainer(config, progress=False)
    assert other(tmp_path / "run")[0].wait(60) == 2
    trainer.run(1)
    assert not (tmp_path / "run" / ".lock").exists()
    trainer.run(2)
    assert not (tmp_path / "run" / ".lock").exists()
    leftover = Trainer(config, progress=False)
    del leftover
    gc.collect()
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_same_command_twice(tmp_path, ranks):
    """The second is refused and leaves the first's files alone; killed, the first is resumed."""
    generate(tmp_path / "data", num_train=7, num_val=2, image_size=64)
    settings = {"data.data": tmp_path / "data", "run.save_every": 1, "schedule.epochs": 500}
    arguments = (tmp_path, "--out", "run", "--resume", "auto")
    first = start(*arguments, ranks=ranks, **settings)
    wait_until(first, lambda: reached(tmp_path / "run", 3))
    code, _, error = finish(start(*arguments, **settings))
    assert code == 2 and "run is in use by another run (process " in error and "Traceback" not in error
    assert f"on {socket.gethostname()} since" in error and first.poll() is None
    assert not (tmp_path / "run" / "earlier").exists()
    os.kill(json.loads((tmp_path / "run" / ".lock").read_text())["process"], signal.SIGKILL)  # rank 0 itself
    finish(first)
    again = start(*arguments, **settings)
    wait_until(again, lambda: (tmp_path / "run" / "log.txt").read_text().count(" iterations on ") == 2)
    again.send_signal(signal.SIGINT)
    code, out, error = finish(again)
    assert code == 130 and "resumed from" in out, error
