"""A trained detector on a validation set: COCO AP and the score-IoU correlations.

    python detectors/evaluate.py runs/demo/checkpoint.pt [--data DIR]
    torchrun --nproc-per-node 8 detectors/evaluate.py runs/demo/checkpoint.pt

Where the run kept averaged weights (schedule.ema), those are evaluated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a file: Python has put detectors/ itself on the path, not the folder above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from mlc_ext.detectors import distributed
from mlc_ext.detectors.command_line import make_parser, print_error
from mlc_ext.detectors.data.workers import DataError, death_of_worker
from mlc_ext.detectors.evaluation.measure import evaluate_checkpoint
from mlc_ext.detectors.evaluation.metrics_table import report


def parse(arguments: list[str] | None = None, prog: str = "evaluate.py") -> argparse.Namespace:
    parser = make_parser(prog, __doc__)
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt of a run")
    parser.add_argument("--data", help="COCO-format folder; default: the one the run was trained on")
    parser.add_argument("--batch-size", type=int, help="images at a time; default: the run's")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the detections in COCO's results format")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting that is not the "
        "run's, repeatable: model.nms=iou, model.nms_threshold=0.6, data.eval_short_side=640",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None, prog: str = "evaluate.py") -> int:
    options = parse(arguments, prog)
    try:
        with distributed.session(options.device):
            metrics = evaluate_checkpoint(
                options.checkpoint,
                options.data,
                options.batch_size,
                options.device,
                results=options.results,
                settings=options.set,
            )
            if distributed.is_main():
                print(report(metrics))
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError, DataError) as error:
        if distributed.is_main() or not isinstance(error, distributed.SetupError):
            print_error(prog, error)
        return 2
    except RuntimeError as error:
        if (died := death_of_worker(error)) is None:
            raise
        print_error(prog, died)
        return 2
    return 0


if __name__ == "__main__":
    distributed.end_program(main())
