"""The command `mlc-ext`: the programs of this package under one name."""

from __future__ import annotations

import importlib
import importlib.util
import sys

from .command_line import say

PROGRAMS = {
    "train": "train a detector, with or without the method",
    "evaluate": "COCO metrics and score-IoU correlations of a checkpoint",
    "predict": "run a checkpoint on images: drawings and COCO results",
    "export": "write a checkpoint as ONNX, .pt2 or an AOTInductor package",
    "report": "compare runs in one HTML page",
    "data": "what a data set has: counts, problems, and a picture with its boxes",
    "convert": "write a data set of YOLO's or Pascal VOC's format in COCO's format",
    "divergence": "rank correlation of score and IoU of any detector's results file",
}
"""What each program does. Its module in this package has a ``main(arguments)`` -> exit code."""

MODULES = {"data": "check_data"}
"""Modules that are not called like their program: ``data`` is a package."""

NEEDED = ("pycocotools", "PIL", "yaml", "tqdm")
"""Modules of the packages that the extra ``detectors`` installs."""


def main() -> None:
    """Runs the program that the first argument names; exit code 2 for an unknown one or missing packages."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        lines = (f"  {program:11} {purpose}" for program, purpose in PROGRAMS.items())
        say("\n".join(["usage: mlc-ext PROGRAM ...\n", *lines, "\nmlc-ext PROGRAM --help lists its options"]))
        return
    if name not in PROGRAMS:
        print(f"mlc-ext: unknown program {name!r}, there are {', '.join(PROGRAMS)}", file=sys.stderr)
        raise SystemExit(2)
    if missing := [module for module in NEEDED if importlib.util.find_spec(module) is None]:
        print(f"mlc-ext: {', '.join(missing)} not found: pip install 'mlc-ext[detectors]'", file=sys.stderr)
        raise SystemExit(2)
    module = importlib.import_module(f"{__package__}.{MODULES.get(name, name)}")  # one alone: each imports for seconds
    from . import distributed

    distributed.end_program(module.main(arguments, f"mlc-ext {name}"))


if __name__ == "__main__":
    main()
