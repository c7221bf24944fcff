"""Programs whose stdout is a pipe that its reader has closed, as ``head`` does: they end as usual."""

import json
import subprocess
import sys

import pytest
from small_runs import set_options

from mlc_ext.detectors import cli

MODULES = [cli.MODULES.get(name, name) for name in cli.PROGRAMS]

PROGRAM = """
import importlib, json, os, sys
for name in json.loads(sys.argv[2]):
    importlib.import_module(f"mlc_ext.detectors.{name}")  # once, for all the children below
codes = []
for name, *arguments in json.loads(sys.argv[1]):
    if (child := os.fork()) == 0:
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 1)
        sys.argv = [name, *arguments]
        module = importlib.import_module(f"mlc_ext.detectors.{name}")
        sys.exit(module.main() if name == "cli" else module.main(arguments))
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


def ended(folder, cases, *options):
    """-> the exit codes and stderr of programs, one after the other, each with a closed stdout."""
    command = [sys.executable, *options, "-c", PROGRAM, json.dumps(cases), json.dumps(MODULES)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("options", [[], pytest.param(["-u"], marks=pytest.mark.slow)], ids=["buffered", "unbuffered"])
def test_every_program_ends_as_usual(tmp_path, options):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install mlc-ext[report])")
    (tmp_path / "broken.png").write_text("no image")
    box = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}
    truth = {"images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 64}], "annotations": [box],
             "categories": [{"id": 1, "name": "cat"}]}  # fmt: skip
    (tmp_path / "annotations.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps([{**box, "score": 0.9}, {**box, "score": 0.8}]))
    settings = ["--preset=fcos_minus_r50_mlc", *set_options("fcos_minus_r50_mlc"), "--epochs=1", "--out=run", "--quiet"]
    cases = [
        (0, "cli", "--help"),
        *((0, name, "--help") for name in MODULES),
        (0, "train", "--settings"),
        (0, "train", *settings),
        (0, "evaluate", "run/checkpoint.pt", "--device=cpu"),
        (0, "report", "run", "--device=cpu", "--quiet"),
        (1, "predict", "run", "broken.png", "--device=cpu", "--quiet"),
        (0, "divergence", "results.json", "annotations.json", "--quiet"),
        (2, "divergence", "absent.json", "absent.json"),
    ]
    codes, error = ended(tmp_path, [case for _, *case in cases], *options)
    assert codes == [code for code, *_ in cases], error
    assert not any(text in error for text in ("Traceback", "Broken pipe", "Exception ignored")), error
    for name in ("run/metrics.json", "report.html", "predictions/predictions.json", "divergence.html"):
        assert (tmp_path / name).is_file(), name
