"""Writes the detector of a run as a file for other runtimes, and compares its detections with those of PyTorch.

    python detectors/export.py runs/demo/MLC --format onnx --check photos/
    python detectors/export.py runs/demo/MLC --format onnx torch aoti

onnx   standard operators only (opset 18): ONNX Runtime, without this project or torch
torch  a program of torch.export (.pt2); a process that loads it needs `import mlc_ext` for NMS
aoti   compiled for the CPU of this machine by AOTInductor (.pt2), for C++ and Python; needs a C++ compiler here, and
       the operators' library where it runs

A file takes uint8 images [batch, 3, height, width], RGB, of any size, and gives boxes, scores, labels and count; batch,
height and width are dynamic. Resizing is left to the caller. docs/export.md describes inputs, outputs and metadata.
`mlc-ext predict` and mlc_ext.detectors.load take the files in place of a checkpoint. They are for the CPU, in float32.

Exit code: 0; 1 if a file's detections differ from PyTorch's (it is written all the same); 2 if options, images or the
checkpoint cannot be used, or a file not be written; 130 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: Python has put detectors/ itself on the path, not the folder above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import mlc_ext  # noqa: F401  (before other imports: it ends the process at Ctrl-C while they run)

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from mlc_ext.detectors import distributed
from mlc_ext.detectors.command_line import command, make_parser, program_main, say
from mlc_ext.detectors.data.errors import ImageDecodeError
from mlc_ext.detectors.exporting.check import Comparison, compare, random_batches, table
from mlc_ext.detectors.exporting.formats import FORMATS, check_possible, metadata_of, write_exported
from mlc_ext.detectors.exporting.program import export_program
from mlc_ext.detectors.prediction.exported import is_exported, open_exported
from mlc_ext.detectors.prediction.images import find_images
from mlc_ext.detectors.prediction.pixels import read_pixels
from mlc_ext.detectors.prediction.predictor import Predictor
from mlc_ext.detectors.runs.files import check_writable

MAX_CHECKED = 50


def parse(arguments: list[str] | None = None, prog: str = "export.py") -> argparse.Namespace:
    parser = make_parser(prog, __doc__)
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="a run's folder (its best.pt, else checkpoint.pt), or a checkpoint"
    )
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=["onnx"], help="one or several; default: onnx")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="default: model.onnx, model.pt2 or model.aoti.pt2 beside the checkpoint",
    )
    parser.add_argument(
        "--check",
        type=Path,
        nargs="+",
        default=[],
        metavar="IMAGE|FOLDER|PATTERN",
        help=f"compare on these images, the first {MAX_CHECKED}; default: on random images",
    )
    return parser.parse_args(arguments)


@program_main("export.py", parse)
def main(options: argparse.Namespace, prog: str) -> int:
    formats = list(dict.fromkeys(options.format))
    paths = _paths(options, formats)
    images = _images(options.check)
    predictor = Predictor(options.run, "cpu")
    for name in formats:
        check_possible(name, predictor.model)
        check_writable(paths[name])
    batches = [[predictor.resize(_read(path))] for path in images] if images else random_batches()
    program, metadata, sizes = export_program(predictor.model), metadata_of(predictor), {}
    for name in formats:
        sizes[name] = write_exported(name, program, metadata, paths[name])
        say(f"{paths[name]}: {sizes[name] / 1e6:.1f} MB")
    results = _compare(predictor, paths, batches)
    equal = all(one.all_equal for one in results.values())
    say(_summary(results, sizes, bool(images)))
    say(f"next: {command(prog, 'predict', paths[formats[0]], 'IMAGES')}")
    return 0 if equal else 1


def _paths(options: argparse.Namespace, formats: Sequence[str]) -> dict[str, Path]:
    """The file of each format."""
    if is_exported(options.run):
        raise ValueError(f"{options.run} is exported already: name the run's folder or a checkpoint")
    if options.out is None:
        folder = options.run if options.run.is_dir() else options.run.parent
        return {name: folder / f"model{FORMATS[name].suffix}" for name in formats}
    if len(formats) > 1:
        raise ValueError(f"--out names one file, but --format {len(formats)} formats; without --out they get names")
    suffix = "." + FORMATS[formats[0]].suffix.rpartition(".")[2]
    if options.out.suffix != suffix:
        raise ValueError(f"--out must end with {suffix} for --format {formats[0]}, got {options.out}")
    return {formats[0]: options.out}


def _images(inputs: Sequence[Path]) -> list[Path]:
    failed: dict[Path, str] = {}
    found = [path for path, _ in find_images(inputs, False, None, failed)][:MAX_CHECKED]
    if inputs and not found:
        raise ValueError(f"no images in {', '.join(map(str, inputs))}")
    return found


def _read(path: Path) -> Tensor:
    try:
        return read_pixels(path)
    except ImageDecodeError as error:
        raise ImageDecodeError(f"{path}: {error}") from error


def _compare(
    predictor: Predictor, paths: dict[str, Path], batches: Sequence[Sequence[Tensor]]
) -> dict[str, Comparison]:
    opened = {name: open_exported(path) for name, path in paths.items()}
    forms = {name: lambda images, one=one: one.detect(images)[0] for name, one in opened.items()}
    return compare(lambda images: predictor.model.detect(images)[0], forms, batches)


def _summary(results: dict[str, Comparison], sizes: dict[str, int], named: bool) -> str:
    images, threads = "the images of --check" if named else "random images", torch.get_num_threads()
    lines = ["", f"on {images}, torch {torch.__version__}, number of CPU threads: {threads}; median times"]
    lines.append(table(results, sizes))
    if not results["PyTorch"].boxes:
        lines.append("no detection to compare: name photos with objects by --check")
    if not all(one.all_equal for one in results.values()):
        lines.append(
            "detections differ: rounding can move a score or an IoU to the other side of a threshold; more than a few "
            "different boxes are an error"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    distributed.end_program(main())
