"""Trains every row of the paper's Tables 1-4 and prints it beside the paper's.

    python benchmarks/paper_tables.py                                  generated images, on a CPU
    python benchmarks/paper_tables.py --data DIR --scale gpu           COCO-format data at 320 px, for one GPU
    python benchmarks/paper_tables.py --data COCO --scale full --set model.weights=resnet50.pth

Rows that share a baseline's first part go on from one checkpoint, the paper's own scheme: the detector is trained in
its original setting first, then the method is switched on. What is done is kept in --out: the same command goes on
where it stopped, --minutes ends it in time with a checkpoint, --show prints what there is without training.
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
from paper.figures import draw_all  # noqa: E402
from paper.jobs import run_parts  # noqa: E402
from paper.parts import SCALES, Part, build_parts  # noqa: E402
from paper.rows import TABLES  # noqa: E402
from paper.tables import as_markdown, as_text, collect, finish, replace_marked  # noqa: E402


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="COCO-format data set; default: the generated one")
    parser.add_argument(
        "--tables", default="1,2,3,4", metavar="N,N", help="of 1, 2, 3, 4 and ablations (default 1,2,3,4)"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each row (default 3)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--scale",
        choices=SCALES,
        default="small",
        help="small: efficientnet_lite0, 160 px, 5 epochs; "
        "gpu: 320 px, 19 epochs, bfloat16, compiled; full: R50-FPN, 800 x 1333, 19 epochs",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, repeatable")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/tables/SCALE")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time; default: a CPU core each, 3 on a GPU, 1 with --scale full",
    )
    parser.add_argument("--minutes", type=float, metavar="N", help="stop in time; the same command goes on")
    parser.add_argument("--show", action="store_true", help="train nothing, print what is there")
    parser.add_argument("--resamples", type=int, default=300, metavar="N", help="of the bootstrap; 0: no intervals")
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
    names = options.tables.split(",")
    if unknown := [name for name in names if name not in TABLES]:
        parser.error(f"--tables: there are {', '.join(TABLES)}, not {', '.join(map(repr, unknown))}")
    options.tables = [name for name in TABLES if name in names]
    for name in ("seeds", "jobs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    return options


def plan(options: argparse.Namespace, jobs: int) -> list[Part]:
    """All parts, seed by seed: what is there early is a whole table."""
    rows = list(dict.fromkeys(row for name in options.tables for row in TABLES[name].rows))
    out = options.out or Path("runs/tables") / options.scale
    threads = None if torch.cuda.is_available() else max(1, (os.cpu_count() or 1) // jobs)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    each = (build_parts(rows, options.scale, seed, out, options.data, options.set, threads) for seed in seeds)
    return [part for parts in each for part in parts]


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
        found = collect(parts)
        if not found:
            print("no row is done yet")
        else:
            tables = finish(options.tables, found, options.resamples)
            print(as_text(tables))
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
