"""Ctrl-C at random moments of predict.py, from its first imports to its end: exit code 130, never a traceback."""

import random
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from small_runs import DETECTORS
from untrained import write_checkpoint


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


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_at_a_random_moment(inputs, seed):
    """After the interpreter's own start, which is Python's, until the results are printed."""
    folder, checkpoint, whole = inputs
    code, error, _ = interrupted(folder, checkpoint, random.Random(seed).uniform(0.4, whole))
    assert code in (0, 130) and "Traceback" not in error
    assert code == 130 or error == ""
