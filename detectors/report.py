"""Runs side by side in one HTML page: curves, tables, detections, and who trains which task.

    python detectors/report.py runs/demo/baseline runs/demo/MLC --out report.html

The page needs nothing but a browser and asks the network for nothing; its charts lie as PNG files in a folder beside it
(report_charts/). Of every run best.pt, or without one the newest checkpoint, is evaluated once on its validation
images; the tables have its metrics. Where checkpoint or images are missing, the page has what the history holds, its
last evaluation in the tables, and a note.

A run adds 0.5 to 1.5 MB with 6 --images, mostly crops: fewer make a smaller page.

Exit code: 0; 2 for folders and options that cannot be used; 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: Python has put detectors/ itself on the path, not the folder above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import mlc_ext  # noqa: F401  (before other imports: it ends the process at Ctrl-C while they run)

import argparse
from collections.abc import Sequence

from mlc_ext.detectors import distributed
from mlc_ext.detectors.command_line import make_parser, print_error, program_errors, program_main, say
from mlc_ext.detectors.data.errors import DatasetNotFound
from mlc_ext.detectors.data.paths import require_split
from mlc_ext.detectors.evaluation.curves import PrecisionCurves, RecallCurves
from mlc_ext.detectors.reporting.charts import COLORS, Chart, charts_folder, check_page, require_matplotlib
from mlc_ext.detectors.reporting.class_charts import class_charts, error_charts
from mlc_ext.detectors.reporting.curves import (
    legend_charts,
    loss_charts,
    metric_charts,
    precision_charts,
    recall_charts,
)
from mlc_ext.detectors.reporting.embedded_images import Pictures
from mlc_ext.detectors.reporting.page import build_page
from mlc_ext.detectors.reporting.run_evaluation import Findings, examine, note_other_data, take_metrics
from mlc_ext.detectors.reporting.scatter import scatter_charts
from mlc_ext.detectors.runs.files import write_whole
from mlc_ext.detectors.runs.history import Run, read_runs


def parse(arguments: list[str] | None = None, prog: str = "report.py") -> argparse.Namespace:
    parser = make_parser(prog, __doc__)
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="folder of a run; the others are compared with the first"
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    parser.add_argument("--data", metavar="DIR", help="COCO-format folder to measure on; default: each run's own")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at a time; default: the run's")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto (default)")
    parser.add_argument(
        "--images", type=int, default=6, metavar="N", help="crops of each kind, and images with labels; default: 6"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


@program_main("report.py", parse)
def main(options: argparse.Namespace, prog: str) -> int:
    _check(options)
    runs = read_runs(options.runs)
    page, charts = make_report(
        runs,
        data=options.data,
        batch_size=options.batch_size,
        device=options.device,
        images=options.images,
        progress=not options.quiet,
    )
    write_whole(options.out, page)  # first: the charts are in it too
    folder = charts_folder(options.out)
    for chart in charts:
        chart.save(folder)
    for run in runs:
        for note in run.notes:
            print_error(prog, f"{run.name}: {note}")
    say(f"{options.out}: {len(runs)} run{'' if len(runs) == 1 else 's'}, {len(page) / 1e6:.1f} MB; charts in {folder}")
    return 0


def _check(options: argparse.Namespace) -> None:
    """What must not become a note on every run."""
    require_matplotlib()
    distributed.pick_device(options.device)
    for name in ("batch_size", "images"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if options.data is not None and not Path(options.data).is_dir():
        raise FileNotFoundError(f"no data folder {options.data}")
    if options.data is not None:
        require_split(options.data)
    check_page(options.out)


def make_report(
    runs: Sequence[Run],
    *,
    data: str | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    images: int = 6,
    progress: bool = False,
) -> tuple[str, list[Chart]]:
    """The page and its charts. Equal runs and data give equal pages; what is missing is added to the runs' notes."""
    pictures, findings = Pictures(), []
    for run in runs:
        findings.append(
            _examine(run, data=data, batch_size=batch_size, device=device, images=images, pictures=pictures,
                     progress=progress)
        )  # fmt: skip
        take_metrics(run, findings[-1], data)
    note_other_data(runs)
    curves = [None if found is None else found.curves for found in findings]
    details = [None if found is None else found.explanation for found in findings]
    charts = {
        "legend": legend_charts(runs),
        "losses": loss_charts(runs),
        "metrics": metric_charts(runs),
        "scatter": [
            chart
            for k, found in enumerate(findings)
            if found is not None
            for chart in scatter_charts(found.divergence, k + 1, COLORS[k % len(COLORS)])
        ],
        "curves": [
            *precision_charts([each if isinstance(each, PrecisionCurves) else None for each in curves]),
            *recall_charts([each if isinstance(each, RecallCurves) else None for each in curves]),
        ],
        "errors": error_charts(details),
        "classes": [chart for k, each in enumerate(details, 1) if each is not None for chart in class_charts(each, k)],
    }
    return build_page(runs, findings, charts, pictures), [chart for part in charts.values() for chart in part]


def _examine(run: Run, **options) -> Findings | None:
    """:func:`examine`, or None and a note on why it could not be."""
    with program_errors(
        lambda error: run.notes.append(f"not evaluated, the page has its history alone: {_line(error)}")
    ):
        return examine(run, **options)
    return None


def _line(error: Exception) -> str:
    return error.short if isinstance(error, DatasetNotFound) else str(error)


if __name__ == "__main__":
    distributed.end_program(main())
