"""A trained detector on images: draws what it finds, and writes it as JSON in COCO's results format.

    python detectors/predict.py runs/demo/checkpoint.pt photo.jpg holiday/ --out found

OUT gets a drawing of every image (found/photo.jpg.png, found/holiday/...) and predictions.json: COCO's result rows with
file names beside. An image id is the file's number, if all file names are distinct numbers, as COCO's are; otherwise
1, 2, ... An image's EXIF rotation is applied, and boxes are in pixels of the rotated image. Images that cannot be read
are reported and left out. predictions.json is written in any case, after Ctrl-C with the images so far.

Exit code: 0; 1 if some image could not be read or drawn; 2 if nothing could be done, or the disk of OUT is full; 130
after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: Python has put detectors/ itself on the path, not the folder above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import mlc_ext  # noqa: F401  (before other imports: it ends the process at Ctrl-C while they run)

import argparse
import functools

from mlc_ext.detectors import distributed
from mlc_ext.detectors.command_line import make_parser, print_error, program_errors
from mlc_ext.detectors.interrupts import interruptible
from mlc_ext.detectors.prediction.images import find_images
from mlc_ext.detectors.prediction.predictor import Predictor
from mlc_ext.detectors.prediction.run import RESULTS, predict
from mlc_ext.detectors.runs.files import check_writable
from mlc_ext.detectors.runs.log_file import show_warnings


def parse(arguments: list[str] | None = None, prog: str = "predict.py") -> argparse.Namespace:
    parser = make_parser(prog, __doc__)
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt of a run")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE|FOLDER", help="what to predict on")
    parser.add_argument("--out", type=Path, default=Path("predictions"), metavar="DIR", help="default: predictions")
    parser.add_argument("--recursive", action="store_true", help="folders within folders too")
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="S",
        help="keep what scores above; default: 0.3, of "
        "proposals 0.5; what the detector itself drops (below 0.05) does not come back",
    )
    parser.add_argument("--json", action="store_true", help="write predictions.json only, draw nothing")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto (default)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


@interruptible
def main(arguments: list[str] | None = None, prog: str = "predict.py") -> int:
    options = parse(arguments, prog)
    show_warnings()
    unlisted: dict[Path, str] = {}
    with program_errors(functools.partial(print_error, prog)) as ending:
        threshold = options.score_threshold
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"--score-threshold must be in 0..1, got {threshold}")
        images = list(find_images(options.images, options.recursive, options.out, unlisted))
        if not images:
            raise ValueError(f"no images in {', '.join(map(str, options.images))} (--recursive looks deeper)")
        check_writable(options.out / RESULTS)
        predictor = Predictor(options.checkpoint, options.device)
        if threshold is None:
            threshold = 0.5 if predictor.model.class_agnostic else 0.3
        outcome = predict(
            predictor,
            images,
            options.out,
            score_threshold=threshold,
            draw=not options.json,
            progress=not options.quiet,
        )
    if ending.code:
        return ending.code
    failed = unlisted | outcome.failed
    for path, why in failed.items():
        print_error(prog, f"{path}: {why}")
    if outcome.interrupted:
        print_error(prog, "interrupted")
    print(f"{options.out / RESULTS}: {len(outcome.rows)} boxes on {outcome.done} of {len(images)} images")
    return 130 if outcome.interrupted else 1 if failed else 0


if __name__ == "__main__":
    distributed.end_program(main())
