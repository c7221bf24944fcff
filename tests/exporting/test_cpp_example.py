"""The AOTInductor package from Python, and from the C++ example that CMake builds."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from untrained import write_checkpoint

from mlc_ext.detectors import export, load

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, its package, and photo.ppm."""
    folder = tmp_path_factory.mktemp("aoti")
    checkpoint = write_checkpoint(folder, "fcos_r50_mlc")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((161, 100)).save(folder / "photo.ppm")
    # the program compares on one image and several, levels of one cell, and 17 images
    assert export.main([str(checkpoint), "--format", "aoti", "--out", str(folder / "model.pt2")]) == 0
    return folder


def test_python(folder):
    reference = load(folder / "fcos_r50_mlc.pt", "cpu").predict(folder / "photo.ppm", 0.3)
    found = load(folder / "model.pt2").predict(folder / "photo.ppm", 0.3)
    assert len(reference) > 5 and found.names == reference.names
    torch.testing.assert_close(found.boxes, reference.boxes, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.scores, reference.scores, rtol=0, atol=1e-5)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake on PATH")
def test_cpp(folder):
    build = folder / "build"
    options = [f"-DPython3_EXECUTABLE={sys.executable}", "-DMLC_EXAMPLES=ON", "-DBUILD_TESTING=OFF"]
    subprocess.run(["cmake", "-S", ROOT, "-B", build, *options], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", build, "--target", "detect"], check=True, capture_output=True)
    detect = str(build / "detect")

    done = subprocess.run([detect, folder / "model.pt2", folder / "photo.ppm", "0.3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    expected = load(folder / "fcos_r50_mlc.pt", "cpu").predict(folder / "photo.ppm", 0.3)
    assert len(rows) == len(expected) > 5 and [row[0] for row in rows] == expected.names
    assert np.array([row[1] for row in rows], float) == pytest.approx(expected.scores.numpy(), abs=1e-4)
    assert np.array([row[2:] for row in rows], float) == pytest.approx(expected.boxes.numpy(), abs=6e-3)  # 2 decimals

    (folder / "cut.ppm").write_bytes((folder / "photo.ppm").read_bytes()[:-1])
    done = subprocess.run([detect, folder / "model.pt2", folder / "cut.ppm"], capture_output=True, text=True)
    assert done.returncode == 1 and "cut.ppm: truncated" in done.stderr
    done = subprocess.run([detect], capture_output=True, text=True)
    assert done.returncode == 2 and "usage: " in done.stderr
