"""A trained detector on a validation set: COCO AP and the score-IoU correlations.

    python detectors/evaluate.py runs/demo/checkpoint.pt [--data DIR]
    torchrun --nproc-per-node 8 detectors/evaluate.py runs/demo/checkpoint.pt

The first line that is printed names the annotation file that is evaluated on.
Where the run kept averaged weights (schedule.ema), those are evaluated.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: Python has put detectors/ itself on the path, not the folder above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import mlc_ext  # noqa: F401  (before other imports: it ends the process at Ctrl-C while they run)

import argparse
import functools
import json

from mlc_ext.detectors import distributed
from mlc_ext.detectors.command_line import make_parser, print_error, program_errors, say
from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.evaluation.measure import measure_loaded, prediction_writer
from mlc_ext.detectors.evaluation.metrics_table import report
from mlc_ext.detectors.interrupts import interruptible
from mlc_ext.detectors.runs.files import check_writable, replacing, write_whole, writing
from mlc_ext.detectors.runs.load import load_for_evaluation
from mlc_ext.detectors.runs.log_file import show_warnings


def parse(arguments: list[str] | None = None, prog: str = "evaluate.py") -> argparse.Namespace:
    parser = make_parser(prog, __doc__)
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt of a run")
    parser.add_argument("--data", help="COCO-format folder; default: the one the run was trained on")
    parser.add_argument("--batch-size", type=int, help="images at a time; default: the run's")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the detections in COCO's results format")
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="write the predictions before NMS, for mlc-ext divergence (.npz)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting that is not the "
        "run's, repeatable: model.nms=iou, model.nms_threshold=0.6, data.eval_short_side=640",
    )
    return parser.parse_args(arguments)


@interruptible
def main(arguments: list[str] | None = None, prog: str = "evaluate.py") -> int:
    options = parse(arguments, prog)
    show_warnings()
    with program_errors(functools.partial(print_error, prog)) as ending:
        with distributed.session(options.device):
            with distributed.together():
                _check(options)
            loaded = load_for_evaluation(options.checkpoint, options.data, options.device, settings=options.set)
            say(f"validation set: {_shown(loaded.dataset)}")
            writer = None if options.predictions is None else prediction_writer(loaded)
            measured = measure_loaded(loaded, options.batch_size, writer)
            writers = [] if writer is None else distributed.gather(writer)
            if distributed.is_main():
                say(report(measured.metrics()))
                if options.results is not None:
                    write_whole(options.results, json.dumps(measured.evaluator.results()))
                if writer is not None:
                    for other in writers[1:]:
                        writer.merge(other)
                    with writing(options.predictions), replacing(options.predictions) as file:
                        writer.save(file)
                say(f"\n{_ending(options)}")
    return ending.code


def _ending(options: argparse.Namespace) -> str:
    """Where the results are."""
    written = {"detections": options.results, "predictions before NMS": options.predictions}
    lines = [f"{what}: {path}" for what, path in written.items() if path is not None]
    return "\n".join(lines) or "no file was written; --results FILE writes the detections"


def _shown(dataset: CocoDetection) -> str:
    """The annotation file as an absolute path, and the part of it that is used."""
    return f"{dataset.annotation_file.absolute()}{dataset.name.removeprefix(str(dataset.annotation_file))}"


def _check(options: argparse.Namespace) -> None:
    """What must not be found out after the work."""
    if options.batch_size is not None and options.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {options.batch_size}")
    for path in (options.results, options.predictions):
        if path is not None and distributed.is_main():
            check_writable(path)


if __name__ == "__main__":
    distributed.end_program(main())
