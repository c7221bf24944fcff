"""A trained detector on a validation set: COCO AP and the score-IoU correlations, then AP by class, what each kind of
error costs (TIDE), and which classes are confused. Proposals (RPN) have the first two alone.

    python detectors/evaluate.py runs/demo [--data DIR] [--split test]
    torchrun --nproc-per-node 8 detectors/evaluate.py runs/demo

The first line that is printed names the annotation file that is evaluated on.
Where the run kept averaged weights (schedule.ema), those are evaluated.
The detections are kept in evaluations/ beside the checkpoint: the same evaluation is not computed a second time.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: Python has put detectors/ itself on the path, not the folder above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import mlc_ext  # noqa: F401  (before other imports: it ends the process at Ctrl-C while they run)

import argparse
import json

from mlc_ext.detectors import distributed
from mlc_ext.detectors.command_line import command, make_parser, program_main, say
from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.evaluation.coco_metrics import CocoEvaluator
from mlc_ext.detectors.evaluation.confusion import SCORE_THRESHOLD
from mlc_ext.detectors.evaluation.explanation import Explanation, as_text, explain
from mlc_ext.detectors.evaluation.measure import prediction_writer
from mlc_ext.detectors.evaluation.metrics_table import report
from mlc_ext.detectors.evaluation.stored import measure_once
from mlc_ext.detectors.runs.files import check_distinct, check_writable, plain, replacing, write_whole, writing
from mlc_ext.detectors.runs.load import Loaded, load_for_evaluation


def parse(arguments: list[str] | None = None, prog: str = "evaluate.py") -> argparse.Namespace:
    parser = make_parser(prog, __doc__)
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="a run's folder (its best.pt, else checkpoint.pt), or a checkpoint"
    )
    parser.add_argument("--data", help="COCO-format folder; default: the one the run was trained on")
    parser.add_argument(
        "--split", metavar="NAME", help="val, train, or another split of the data folder, such as test; default: val"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, and the curves of every class")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=SCORE_THRESHOLD,
        metavar="S",
        help=f"of the confusion matrix: detections that score above; default: {SCORE_THRESHOLD}",
    )
    parser.add_argument("--again", action="store_true", help="compute even if the same evaluation was kept")
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


@program_main("evaluate.py", parse)
def main(options: argparse.Namespace, prog: str) -> int:
    with distributed.session(options.device):
        with distributed.together():
            _check(options)
        loaded = load_for_evaluation(
            options.run, options.data, options.device, settings=options.set, split=options.split
        )
        with distributed.together():
            _check_outputs(options, loaded)
        say(f"{options.split or 'validation'} set: {_shown(loaded.dataset)}")
        writer = None if options.predictions is None else prediction_writer(loaded)
        once = measure_once(loaded, options.batch_size, again=options.again, writer=writer)
        if once.reused:
            say(f"evaluated before, detections read from {once.file}; --again computes them again")
        measured = once.measured
        writers = [] if writer is None else distributed.gather(writer)
        if distributed.is_main():
            metrics, found = measured.metrics(), None
            say(report(metrics))
            if isinstance(measured.evaluator, CocoEvaluator):
                found = explain(measured.evaluator, options.score_threshold)
                say(f"\n{as_text(found)}")
            if options.json is not None:
                write_whole(options.json, json.dumps(plain(_figures(loaded, metrics, found)), indent=1) + "\n")
            if options.results is not None:
                write_whole(options.results, json.dumps(measured.evaluator.results()))
            if writer is not None:
                for other in writers[1:]:
                    writer.merge(other)
                with writing(options.predictions), replacing(options.predictions) as file:
                    writer.save(file)
            say(f"\n{_ending(options, loaded.checkpoint.parent, once.file, prog)}")
    return 0


def _figures(loaded: Loaded, metrics: dict[str, float], found: Explanation | None) -> dict[str, object]:
    """All figures, for JSON; None: proposals."""
    return {
        "annotations": str(Path(loaded.dataset.annotation_file).absolute()),
        "iteration": loaded.iteration,
        "metrics": metrics,
        **({} if found is None else found.to_dict()),
    }


def _ending(options: argparse.Namespace, folder: Path, kept: Path | None, prog: str) -> str:
    """Where the results are, and what may come next."""
    written = {
        "kept for the next time": kept,
        "figures": options.json,
        "detections": options.results,
        "predictions before NMS": options.predictions,
    }
    lines = [f"{what}: {path}" for what, path in written.items() if path is not None]
    if (folder / "config.json").is_file():
        lines.append(f"next: {command(prog, 'report', folder)}")
    return "\n".join(lines)


def _shown(dataset: CocoDetection) -> str:
    """The annotation file as an absolute path, and the part of it that is used."""
    return f"{dataset.annotation_file.absolute()}{dataset.name.removeprefix(str(dataset.annotation_file))}"


def _check(options: argparse.Namespace) -> None:
    """What must not be found out after the work."""
    if options.batch_size is not None and options.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {options.batch_size}")
    if not 0 <= options.score_threshold <= 1:
        raise ValueError(f"--score-threshold must be in 0..1, got {options.score_threshold:g}")
    for path in (options.json, options.results, options.predictions):
        if path is not None and distributed.is_main():
            check_writable(path)


def _check_outputs(options: argparse.Namespace, loaded: Loaded) -> None:
    """ValueError for an output in the place of an input or of another output."""
    files = {"the checkpoint": loaded.checkpoint, "the annotations": loaded.dataset.annotation_file}
    outputs = {"--json": options.json, "--results": options.results, "--predictions": options.predictions}
    check_distinct(files | {name: path for name, path in outputs.items() if path is not None})


if __name__ == "__main__":
    distributed.end_program(main())
