"""Ctrl-C at random moments of predict.py, from its first imports to its end: exit code 130, never a traceback. In
programs of others the package changes nothing."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from small_runs import DETECTORS
from untrained import write_checkpoint

from mlc_ext._program_start import is_program
from mlc_ext.detectors.cli import MODULES, PROGRAMS


def begin(folder, checkpoint):
    command = [sys.executable, DETECTORS / "predict.py", checkpoint, folder, "--out", folder / "found", "--quiet",
               "--device", "cpu"]  # fmt: skip
    return subprocess.Popen(list(map(str, command)), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def interrupted(folder, checkpoint, seconds):
    """-> exit code, stderr, seconds until the end."""
    process = begin(folder, checkpoint)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    _, error = process.communicate(timeout=120)
    return process.returncode, error, time.monotonic() - sent


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder of images, a checkpoint, and the seconds that predict.py takes."""
    folder = tmp_path_factory.mktemp("images")
    for k in range(4):
        Image.new("RGB", (64, 48)).save(folder / f"{k}.png")
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), "fcos_minus_r50_mlc")
    began = time.monotonic()
    process = begin(folder, checkpoint)
    assert process.communicate(timeout=120) and process.returncode == 0
    return folder, checkpoint, time.monotonic() - began


def test_while_it_imports(inputs):
    code, error, _ = interrupted(*inputs[:2], inputs[2] / 4)
    assert (code, error) == (130, "")


FOREIGN = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
before = signal.getsignal(signal.SIGTERM)
import mlc_ext
assert signal.getsignal(signal.SIGTERM) is before
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("saved")
"""


def test_a_program_of_another_project_keeps_its_signals(tmp_path):
    """Though it is called as one of this package's."""
    (tmp_path / "detectors").mkdir()
    (tmp_path / "detectors" / "train.py").write_text(FOREIGN)
    path = os.pathsep.join([str(DETECTORS.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "detectors/train.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path},
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "saved\n"), done.stderr


@pytest.mark.parametrize("name", [f"{MODULES.get(name, name)}.py" for name in PROGRAMS])
def test_the_programs_of_this_package_are_recognized(tmp_path, monkeypatch, name):
    (tmp_path / "link.py").symlink_to(DETECTORS / name)
    for path in (DETECTORS / name, tmp_path / "link.py"):
        monkeypatch.setattr(sys, "argv", [str(path)])
        assert is_program()
    monkeypatch.chdir(DETECTORS.parent)
    monkeypatch.setattr(sys, "argv", [f"detectors/{name}"])
    assert is_program()
    for other in (tmp_path / name, "-c", "", DETECTORS / "interrupts.py"):
        monkeypatch.setattr(sys, "argv", [str(other)])
        assert not is_program()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_at_a_random_moment(inputs, seed):
    """After the interpreter's own start, which is Python's, until the results are printed."""
    folder, checkpoint, whole = inputs
    code, error, _ = interrupted(folder, checkpoint, random.Random(seed).uniform(0.4, whole))
    assert code in (0, 130) and "Traceback" not in error
    assert code == 130 or error == ""
