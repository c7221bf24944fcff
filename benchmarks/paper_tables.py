"""Trains every row of the paper's Tables 1-4 and prints it beside the paper's.

    python benchmarks/paper_tables.py --protocol cached                generated images, on a CPU
    python benchmarks/paper_tables.py --protocol cached --data DIR     COCO-format data at 320 px
    python benchmarks/paper_tables.py --data DIR --scale gpu           the same for one GPU, everything trained
    python benchmarks/paper_tables.py --data COCO --scale full --set model.weights=resnet50.pth

All rows of a detector go on from one first part, the paper's own scheme: the detector is trained in its original
setting first, then the method is switched on. With --protocol cached the backbone is fixed from there on, and its
maps are computed once. What is done is kept in --out: the same command goes on where it stopped. --minutes N
stops after N minutes and saves a checkpoint; --show prints the rows, as far as they are finished, without training.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _harness import Settings, facts  # noqa: E402
from _pictures import pyplot  # noqa: E402
from paper.data import GENERATED, SPLITS, prepare  # noqa: E402
from paper.figures import draw_all  # noqa: E402
from paper.jobs import run_parts  # noqa: E402
from paper.parts import SCALES, Part, Plan  # noqa: E402
from paper.rows import DETECTORS, ROWS, TABLES  # noqa: E402
from paper.tables import as_markdown, as_text, collect, finish, replace_marked  # noqa: E402


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        metavar="DIR",
        default="generated",
        help=f"COCO-format data set, or one of {', '.join(GENERATED)} (160 and 256 px; the default is the first)",
    )
    parser.add_argument(
        "--classes", type=int, metavar="N", help="of --data DIR: the N categories with the most training objects"
    )
    parser.add_argument(
        "--held-back",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of --data DIR: share of the validation images that is held back for --split test (default 0)",
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="val",
        help="print the figures of the validation images, or of those held back, on which no choice may be made; all: "
        "of --data DIR, of both together, where no choice was made on either",
    )
    parser.add_argument("--tables", default="1,2,3,4", metavar="N,N", help=f"of {', '.join(TABLES)} (default 1,2,3,4)")
    parser.add_argument(
        "--detectors",
        metavar="NAME,NAME",
        default=",".join(DETECTORS),
        help=f"only the tables' rows of these: {', '.join(DETECTORS)} (default: all); p values are "
        "corrected for the rows that are left",
    )
    parser.add_argument(
        "--rows", metavar="ROW,ROW", help="only these rows of the tables, by their folders' names, such as fcos-_ml"
    )
    parser.add_argument(
        "--against",
        metavar="ROW",
        help="compare the rows with this one of the tables; default: each with its detector's baseline",
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each row (default 3)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--scale",
        choices=SCALES,
        default="small",
        help="small: efficientnet_lite0, the generated images' size or 320 px, 5 epochs; "
        "gpu: 320 px, 19 epochs, bfloat16, compiled; full: R50-FPN, 800 x 1333, 19 epochs",
    )
    parser.add_argument(
        "--protocol",
        choices=("full", "cached"),
        default="full",
        help="cached: the backbone is fixed after the first part, and later steps take its maps from a file",
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="of the second part, 7/19 of the schedule, at least; default: the scale's epochs, 1000 with "
        "--protocol cached",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, repeatable")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/tables/SCALE_PROTOCOL_DATA")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time; default: a CPU core each, 3 on a GPU, 1 with --scale full",
    )
    parser.add_argument("--minutes", type=float, metavar="N", help="stop in time; the same command goes on")
    parser.add_argument("--show", action="store_true", help="train nothing, print the rows as far as they are finished")
    parser.add_argument("--resamples", type=int, default=2000, metavar="N", help="of the bootstrap; 0: no intervals")
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="write the tables there too, between its lines <!-- tables --> and <!-- /tables --> where it has them",
    )
    parser.add_argument(
        "--figures",
        type=Path,
        metavar="DIR",
        help="draw the course over the epochs, the labels that flip and AP by IoU threshold there; needs matplotlib",
    )
    options = parser.parse_args(arguments)
    names, detectors = options.tables.split(","), options.detectors.split(",")
    rows = None if options.rows is None else options.rows.split(",")
    choices = (("tables", names, TABLES), ("detectors", detectors, DETECTORS), ("rows", rows or (), ROWS))
    for option, found, known in choices:
        if unknown := [name for name in found if name not in known]:
            parser.error(f"--{option}: there are {', '.join(known)}, not {', '.join(map(repr, unknown))}")
    tables = {name: table.part(detectors, rows) for name, table in TABLES.items() if name in names}
    options.tables = {name: table for name, table in tables.items() if table.rows}
    if not options.tables:
        parser.error(f"--tables {','.join(names)} has no row of {', '.join(rows or detectors)}")
    if options.against and (without := [name for name, t in options.tables.items() if options.against not in t.rows]):
        parser.error(f"--against: table {', '.join(without)} has no row {options.against!r}")
    if options.data in GENERATED and (options.classes or options.held_back):
        parser.error("--classes and --held-back are for --data DIR; generated images have a split held back")
    if not 0 <= options.held_back < 1:
        parser.error(f"--held-back must be in 0..1, got {options.held_back}")
    if options.split == "all" and options.data in GENERATED:
        parser.error("--split all is for --data DIR; the two splits of generated images have the same ids")
    if options.split != "val" and options.data not in GENERATED and not options.held_back:
        parser.error(f"--split {options.split} needs --held-back SHARE, as the rows were trained with")
    if options.steps is None and options.protocol == "cached":
        options.steps = 1000
    for name in ("seeds", "jobs", "steps", "classes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    return options


def plan(options: argparse.Namespace, jobs: int) -> list[Part]:
    """All parts, seed by seed, so that complete tables exist early."""
    rows = list(dict.fromkeys(row for table in options.tables.values() for row in table.rows))
    data = prepare(options.data, held_back=options.held_back, classes=options.classes)
    common = Plan(
        scale=options.scale,
        data=data,
        out=options.out or Path("runs/tables") / f"{options.scale}_{options.protocol}_{data.name}",
        settings=options.set,
        threads=None if torch.cuda.is_available() else max(1, (os.cpu_count() or 1) // jobs),
        steps=options.steps,
        cached=options.protocol == "cached",
    )
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    return [part for seed in seeds for part in common.parts(rows, seed)]


def circumstances(arguments: list[str] | None) -> str:
    """What the figures depend on, in a line."""
    known = facts(Settings("cuda" if torch.cuda.is_available() else "cpu"))
    command = shlex.join(["python", "benchmarks/paper_tables.py", *(sys.argv[1:] if arguments is None else arguments)])
    device = known["cpu"] if known["device"] == "cpu" else known["device"]
    return f"`{command}` at commit {known['commit']}: {device}, torch {known['torch']}, {known['date'][:10]}."


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    default = 1 if options.scale == "full" else 3 if torch.cuda.is_available() else os.cpu_count() or 1
    jobs = options.jobs or default
    try:
        parts = plan(options, jobs)
        failed: list[Part] = []
        if not options.show:
            seconds = None if options.minutes is None else 60 * options.minutes
            failed, _ = run_parts(parts, jobs=jobs, seconds=seconds)
        left = [part for part in parts if not part.done]
        found = collect(parts, options.resamples, split=options.split, against=options.against)
        tables = finish(options.tables, found)
        if not found:
            print("no row is done yet")
        if found or options.show:
            print(as_text(tables))
        if found:
            if options.markdown:
                replace_marked(options.markdown, as_markdown(tables, circumstances(arguments)))
            if options.figures:
                for path in draw_all(pyplot(), found, options.figures):
                    print(path)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        print(f"paper_tables.py: {error}", file=sys.stderr)
        return 2
    if left:
        print(f"{len(left)} of {len(parts)} parts are not done: {', '.join(part.name for part in left[:6])}"
              f"{', ...' if len(left) > 6 else ''}", file=sys.stderr)  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
