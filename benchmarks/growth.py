"""How the operators' time grows: python benchmarks/growth.py [operator ...]

Draws docs/growth/<operator>.png, log-log, mlc_ext and one peer, and writes docs/growth.md with the fitted exponents.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import bm_box_iou
import bm_iou_loss
import bm_iou_nms
import bm_match_boxes
import bm_mutual_labels
import bm_paired_box_iou
import bm_rescored_nms
import bm_segmented_otsu
import bm_segmented_spearman
import bm_sigmoid_focal_loss
import bm_topk_alignment
import torch
from _harness import ROOT, THREADS, Case, Settings, circumstances, facts, measure
from _otsu_peers import group_inputs
from _pictures import pyplot, save

DOCS = ROOT / "docs"
OURS = "mlc_ext"


@dataclass(frozen=True)
class Panel:
    """Time against one size, a curve for each value of the other."""

    axis: str
    sizes: list[int]
    curves: dict[str, Callable[[int, Settings], Case]]
    """Name of a curve -> case of a size."""


@dataclass
class Curve:
    """What was measured of a curve: [len(sizes)] milliseconds of mlc_ext and of the peer."""

    name: str
    sizes: list[int]
    peer: str
    milliseconds: dict[str, list[float]] = field(default_factory=dict)

    def exponent(self, contestant: str) -> float:
        return fitted_exponent(self.sizes, self.milliseconds[contestant])


def fitted_exponent(sizes: list[int], milliseconds: list[float]) -> float:
    """p of time = c * size^p: least squares of the logarithms, over the upper half of the range of sizes (but at least
    three of them), where the cost of a call does not hide the growth."""
    middle = math.sqrt(sizes[0] * sizes[-1])
    first = min(next(i for i, size in enumerate(sizes) if size >= middle), max(0, len(sizes) - 3))
    x, y = ([math.log(v) for v in values[first:]] for values in (sizes, milliseconds))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)


def panels() -> dict[str, list[Panel]]:
    """Of every operator its panels; the single forms of NMS are a batch of one image."""

    def otsu(n: int, k: int, settings: Settings) -> Case:
        return bm_segmented_otsu.exact(*group_inputs(n, k, settings.device), k, settings)

    def match(n: int, k: int, settings: Settings) -> Case:
        return bm_match_boxes.case("random", n, k, 1, settings)

    def topk(n: int, k: int, settings: Settings) -> Case:
        side = round(math.sqrt(48 * n))  # of an image with about n points on its five levels
        return bm_topk_alignment.case(side, side, k, 1, settings)

    def grid(case, n: tuple[str, list[int], tuple], k: tuple[str, list[int], tuple]) -> list[Panel]:
        """Time against N for some K, and against K for some N; each is (name, sizes, those of the other panel)."""
        (n_name, n_sizes, some_n), (k_name, k_sizes, some_k) = n, k
        by_n = {f"{size:,} {k_name}": lambda x, s, size=size: case(x, size, s) for size in some_k}
        by_k = {f"{size:,} {n_name}": lambda x, s, size=size: case(size, x, s) for size in some_n}
        return [Panel(f"{n_name} N", n_sizes, by_n), Panel(f"{k_name} K", k_sizes, by_k)]

    def nms(case) -> list[Panel]:
        kinds = {"one class": None, "80 classes": 80}
        return [
            Panel(
                "boxes N of an image, 4 images",
                [100, 320, 1000, 2000, 4000],
                {name: lambda n, s, c=c: case(4, n, c, s) for name, c in kinds.items()},
            ),
            Panel(
                "images B of 1,000 boxes",
                [1, 2, 4, 8, 16],
                {name: lambda b, s, c=c: case(b, 1000, c, s) for name, c in kinds.items()},
            ),
        ]

    values = "values", [1000, 10_000, 30_000, 100_000, 300_000], (10_000, 100_000)
    groups = "groups", [1, 10, 100, 1000, 10_000], (10, 1000)
    few_gts = "gts", [1, 3, 10, 30, 100, 300], (5, 50)
    return {
        "segmented_otsu": grid(otsu, values, groups),
        "mutual_labels": grid(bm_mutual_labels.case, ("priors", *values[1:]), ("gts", *groups[1:])),
        "match_boxes": grid(match, ("priors", [1000, 3000, 10_000, 30_000, 100_000], (3000, 30_000)), few_gts),
        "topk_alignment": grid(topk, ("priors", [300, 1000, 3000, 10_000, 30_000], (3000, 30_000)), few_gts),
        "box_iou": grid(
            bm_box_iou.case,
            ("boxes", [100, 300, 1000, 3000, 10_000, 30_000], (1000, 10_000)),
            ("others", [1, 3, 10, 30, 100, 300], (10, 100)),
        ),
        "paired_box_iou": [
            Panel(
                "pairs N, forward and backward",
                [100, 1000, 10_000, 30_000, 100_000, 300_000],
                {
                    "IoU": lambda n, s: bm_paired_box_iou.case(n, "iou", s),
                    "GIoU": lambda n, s: bm_paired_box_iou.case(n, "giou", s),
                },
            )
        ],
        "iou_loss": [
            Panel(
                "priors N, forward and backward",
                [1000, 3000, 10_000, 30_000, 100_000],
                {
                    f"1 in {every} positive": lambda n, s, e=every: bm_iou_loss.case(n, n // e, "giou", s)
                    for every in (10, 100)
                },
            )
        ],
        "sigmoid_focal_loss": [
            Panel(
                "priors N, forward and backward",
                [100, 1000, 3000, 10_000, 30_000],
                {
                    f"{classes} classes": lambda n, s, c=classes: bm_sigmoid_focal_loss.case(n, c, torch.float32, s)
                    for classes in (20, 80)
                },
            )
        ],
        "rescored_nms": nms(bm_rescored_nms.case),
        "iou_nms": nms(bm_iou_nms.case),
        "segmented_spearman": grid(
            bm_segmented_spearman.case, ("pairs", *values[1:]), ("groups", [1, 10, 100, 1000], (1, 100))
        ),
    }


class Brief(Settings):
    """Less time for a case, but in several rounds: a busy minute of the machine passes by most of them."""

    rounds = 3
    seconds = 0.05


def measure_panel(panel: Panel, settings: Brief) -> list[Curve]:
    cases = {name: [case_of(size, settings) for size in panel.sizes] for name, case_of in panel.curves.items()}
    curves = {name: Curve(name, panel.sizes, next(iter(cases[name][0].peers))) for name in cases}
    for case in (case for row in cases.values() for case in row if case.check is not None):
        case.check()
    for curve in curves.values():
        curve.milliseconds = {who: [math.inf] * len(panel.sizes) for who in (OURS, curve.peer)}
    for _ in range(settings.rounds):
        for name, curve in curves.items():
            for i, case in enumerate(cases[name]):
                alone = Case(case.name, case.ours, {curve.peer: case.peers[curve.peer]})
                for who, ms in measure(alone, settings).items():
                    curve.milliseconds[who][i] = min(curve.milliseconds[who][i], ms)
    return list(curves.values())


def sentence(axis: str, curves: list[Curve]) -> str:
    """The exponents of a panel in words."""

    def powers(contestant: str) -> str:
        return ", ".join(f"{curve.exponent(contestant):.2f} ({curve.name})" for curve in curves)

    return f"Against {axis}, time grows with the power {powers(OURS)}; {curves[0].peer}: {powers(curves[0].peer)}."


def document(results: dict[str, list[tuple[str, list[Curve]]]], facts: dict[str, object]) -> str:
    lines = [
        "# How the operators' time grows",
        "",
        f"{circumstances(facts)}; made by `make growth`. An exponent is the slope of the upper half of a curve, by "
        "least squares of the logarithms: 1 is linear growth, 0 none.",
    ]
    for operator, drawn in results.items():
        lines += ["", f"## {operator}", "", f"![{operator}](growth/{operator}.png)", ""]
        lines += [" ".join(sentence(axis, curves) for axis, curves in drawn)]
    return "\n".join(lines) + "\n"


def draw(plt, operator: str, drawn: list[tuple[str, list[Curve]]], path: Path) -> None:
    figure, axes = plt.subplots(
        1, len(drawn), figsize=(4.6 * len(drawn), 4.2), squeeze=False, sharey=True, layout="constrained"
    )
    for ax, (axis, curves) in zip(axes[0], drawn, strict=True):
        for color, curve in enumerate(curves):
            for contestant, style in ((OURS, "o-"), (curve.peer, "s--")):
                label = f"{contestant}, {curve.name}"
                ax.loglog(curve.sizes, curve.milliseconds[contestant], style, color=f"C{color}", label=label, ms=4)
        ax.set_xlabel(axis)
        ax.grid(True, which="major", alpha=0.3)
        ax.tick_params(labelleft=True)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8, frameon=False)
    axes[0][0].set_ylabel("time of a call, ms")
    figure.suptitle(operator)
    save(plt, figure, path)


def main() -> None:
    everything = panels()
    parser = argparse.ArgumentParser(description="Measure and draw how the operators' time grows with their sizes.")
    parser.add_argument(
        "operators", nargs="*", metavar="operator", help=f"of {', '.join(everything)}; default: all, and the document"
    )
    parser.add_argument("--threads", type=int, default=THREADS, help="of torch (%(default)s)")
    args = parser.parse_args()
    if unknown := sorted(set(args.operators) - set(everything)):
        parser.error(f"unknown operator {', '.join(unknown)}; there are {', '.join(everything)}")
    plt = pyplot()
    torch.set_num_threads(args.threads)
    settings = Brief()
    found = facts(settings)
    (DOCS / "growth").mkdir(parents=True, exist_ok=True)
    results = {}
    for operator in args.operators or everything:
        results[operator] = [(panel.axis, measure_panel(panel, settings)) for panel in everything[operator]]
        draw(plt, operator, results[operator], DOCS / "growth" / f"{operator}.png")
        print(operator, *(sentence(axis, curves) for axis, curves in results[operator]), sep="\n  ", flush=True)
    if not args.operators:
        (DOCS / "growth.md").write_text(document(results, found))


if __name__ == "__main__":
    main()
