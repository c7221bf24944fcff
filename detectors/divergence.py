"""How well the scores of any detector agree with the true IoU of its boxes, from a file of its predictions.

    python detectors/divergence.py RESULTS.json ANNOTATIONS.json --out divergence.html
    python detectors/divergence.py PREDICTIONS.npz ANNOTATIONS.json

RESULTS.json is in COCO's results format, as detectors write it after NMS. PREDICTIONS.npz has the predictions before
NMS, which the paper measures; mlc_ext.PredictionWriter writes it. The page needs nothing but a browser; its charts
are also PNG files in a folder beside it (divergence_charts/).

Exit code: 0; 2 for files and options that cannot be used; 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: Python has put detectors/ itself on the path, not the folder above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import mlc_ext  # noqa: F401  (before other imports: it ends the process at Ctrl-C while they run)

import argparse
import json

import numpy as np

from mlc_ext.detectors import distributed
from mlc_ext.detectors.command_line import make_parser, print_error, program_main, say
from mlc_ext.detectors.data.coco.ground_truth import GroundTruth
from mlc_ext.detectors.evaluation.file_divergence import RANKINGS, FileDivergence, measure_predictions
from mlc_ext.detectors.evaluation.metrics_table import shown
from mlc_ext.detectors.evaluation.prediction_rows import PredictionRows, read_predictions
from mlc_ext.detectors.reporting.charts import charts_folder, check_page, require_matplotlib
from mlc_ext.detectors.reporting.divergence_page import STAGES, divergence_charts, divergence_page
from mlc_ext.detectors.runs.files import check_distinct, check_writable, plain, write_whole


def parse(arguments: list[str] | None = None, prog: str = "divergence.py") -> argparse.Namespace:
    parser = make_parser(prog, __doc__)
    parser.add_argument("results", type=Path, metavar="RESULTS", help=".json or .npz file of predictions")
    parser.add_argument("annotations", type=Path, metavar="ANNOTATIONS", help="COCO detection JSON of the images")
    parser.add_argument("--out", type=Path, default=Path("divergence.html"), metavar="FILE",
                        help="default: divergence.html")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    parser.add_argument("--before-nms", action="store_true", help="NMS has not been applied to RESULTS.json")
    parser.add_argument("--class-agnostic", action="store_true", help="all classes are one, as for proposals")
    parser.add_argument("--top-k", type=int, default=50, metavar="N", help="predictions per object; default: 50")
    parser.add_argument("--score-threshold", type=float, default=0.05, metavar="X",
                        help="of pooled pairs, and of detections; default: 0.05")  # fmt: skip
    parser.add_argument("--iou-threshold", type=float, default=0.5, metavar="X", help="of pooled pairs; default: 0.5")
    parser.add_argument("--nms-iou", type=float, default=0.6, metavar="X",
                        help="threshold of the NMS for AP, before NMS; default: 0.6")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


@program_main("divergence.py", parse)
def main(options: argparse.Namespace, prog: str) -> int:
    _check(options)
    rows = read_predictions(options.results, class_agnostic=options.class_agnostic, before_nms=options.before_nms)
    truth = GroundTruth(options.annotations, class_agnostic=options.class_agnostic)
    rows = rows.matched(truth, options.results, options.annotations)
    found = measure_predictions(
        rows,
        truth,
        top_k=options.top_k,
        score_threshold=options.score_threshold,
        iou_threshold=options.iou_threshold,
        nms_iou=options.nms_iou,
        progress=not options.quiet,
    )
    notes = _notes(rows, found, truth, options.score_threshold)
    charts = divergence_charts(found)
    page = divergence_page(
        found,
        charts,
        before_nms=rows.before_nms,
        results=str(options.results),
        annotations=str(options.annotations),
        notes=notes,
    )
    write_whole(options.out, page)  # first: the charts are in it too
    for chart in charts:
        chart.save(charts_folder(options.out))
    if options.json is not None:
        figures = {"before_nms": rows.before_nms, "notes": notes, **found.to_dict()}
        write_whole(options.json, json.dumps(plain(figures), indent=2) + "\n")
    say(_summary(found, rows.before_nms))
    for note in notes:
        print_error(prog, f"warning: {note}")
    figures_at = "" if options.json is None else f"; figures in {options.json}"
    say(f"{options.out}: charts in {charts_folder(options.out)}{figures_at}")
    return 0


def _check(options: argparse.Namespace) -> None:
    """What must not be found out after the work."""
    require_matplotlib()
    if options.top_k < 2:
        raise ValueError(f"--top-k must be at least 2, got {options.top_k}")
    for name in ("score_threshold", "iou_threshold", "nms_iou"):
        if not 0 <= (value := getattr(options, name)) <= 1:
            raise ValueError(f"--{name.replace('_', '-')} must be in 0..1, got {value}")
    files = {"RESULTS": options.results, "ANNOTATIONS": options.annotations, "--out": options.out}
    if options.json is not None:
        files["--json"] = options.json
    check_distinct(files)
    check_page(options.out)
    if options.json is not None:
        check_writable(options.json)


def _notes(rows: PredictionRows, found: FileDivergence, truth: GroundTruth, threshold: float) -> list[str]:
    notes = []
    if not rows.before_nms and rows.look_unsuppressed():
        notes.append(
            "many predictions overlap a better one of their class by IoU > 0.9, which NMS removes: if NMS has not been "
            "applied, use --before-nms"
        )
    if found.num_images < len(truth.image_ids):
        notes.append(f"{len(truth.image_ids) - found.num_images} of {len(truth.image_ids)} images have no prediction")
    if rows.left_out:
        notes.append(f"left out: {rows.left_out} predictions on images of the annotation file that cannot be used")
    categories = np.unique(rows.category_ids)
    if len(categories) == 1 and len(np.unique(truth.table.labels)) > 1:
        name = truth.classes.categories[int(categories[0])]
        notes.append(
            f"all predictions have the category id {categories[0]} ({name}), the annotations have others too: if the "
            "predictions are proposals, for objects of any class, use --class-agnostic"
        )
    if len(rows):
        low, high = min(rows.scores.min(), rows.raw_scores.min()), max(rows.scores.max(), rows.raw_scores.max())
        outside = [f"up to {high:g}"] * bool(high > 1) + [f"down to {low:g}"] * bool(low < 0)
        notes += [
            f"scores go {text}: the reliability curve is for scores in 0..1; it and the pooled pairs use scores > "
            f"{threshold:g} (--score-threshold)"
            for text in outside
        ]
    if truth.dropped:
        parts = ", ".join(f"{count} {reason}" for reason, count in truth.dropped.items())
        notes.append(f"left out of the annotation file: {parts}")
    return notes


def _summary(found: FileDivergence, before_nms: bool) -> str:
    measured = found.divergence.compute()
    lines = [
        STAGES[before_nms],
        f"rho by object   {shown('rho', measured['per_gt']):>7}  ({measured['per_gt_count']} objects, "
        f"{measured['per_gt_skipped']} more without a rho)",
        f"rho pooled      {shown('rho', measured['pooled']):>7}  ({measured['pooled_count']} pairs)",
    ]
    for name, metrics in found.ap.items():
        lines.append(f"AP {shown('AP', metrics['AP']):>5}  AP75 {shown('AP75', metrics['AP75']):>5}  {RANKINGS[name]}")
    return "\n".join(lines)


if __name__ == "__main__":
    distributed.end_program(main())
