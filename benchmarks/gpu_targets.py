"""The operators on a GPU against peers and the machine's limits: python benchmarks/gpu_targets.py --json FILE

Each row has targets for its time (replayed from a CUDA graph, or called), its ratio to peers (both called) and its
share of what the device could do at most, measured in the same run (ceilings.py). Inputs stay in the caches where they
fit.
"""

from __future__ import annotations

import argparse
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
from _harness import GRAPH, ONE_THREAD, Case, Row, Settings, circumstances, facts, format_row, measure, write_record
from _otsu_peers import group_inputs
from _torchvision import why_not
from _verdicts import Verdict, table
from ceilings import Ceilings, measure_ceilings

OURS = "mlc_ext"
OWN = (OURS, GRAPH)
TRIAL = "A trial of the program: tiny cases, or no GPU. No target is judged by it."
MICROSECOND, MILLISECOND, MEGABYTE = 1e-3, 1.0, 1e6


@dataclass(frozen=True)
class Goal:
    """A row: the case at full and at little size, and its targets; times in milliseconds."""

    operator: str
    make: Callable[..., Case]
    """(*size, settings) -> case"""
    size: tuple
    small: tuple
    graph: float | None = None
    called: float | None = None
    faster_than: dict[str, float] = field(default_factory=dict)
    """{peer: times}"""
    slower_than: dict[str, float] = field(default_factory=dict)
    """{peer: times at most}"""
    share: float | None = None
    """Of the limit."""

    def case(self, settings: Settings) -> Case:
        return self.make(*(self.small if settings.quick else self.size), settings)

    def verdicts(self, row: Row | None, share: float | None) -> list[Verdict]:
        """Of what was measured; all unmeasured without a row."""
        times = {} if row is None else row.milliseconds
        subject = self.operator if row is None else f"{self.operator}, {row.case}"

        def verdict(what: str, unit: str, bound: float, measured: float | None, at_most: bool, note="") -> Verdict:
            return Verdict(subject, what, unit, bound, at_most, measured, note)

        def ratio(peer: str) -> float | None:
            return None if row is None or peer not in times else row.ratio(peer)

        found = []
        if self.graph is not None:
            found.append(verdict("time in a graph", "ms", self.graph, times.get(GRAPH), True))
        if self.called is not None:
            found.append(verdict("time of a call", "ms", self.called, times.get(OURS), True))
        for peer, least in self.faster_than.items():
            found.append(verdict(f"{peer} / ours", "x", least, ratio(peer), False, missing_peer(peer, times)))
        for peer, most in self.slower_than.items():
            of_peer = ratio(peer)
            found.append(verdict(f"ours / {peer}", "x", most, of_peer and 1 / of_peer, True))
        if self.share is not None:
            found.append(verdict("share of the limit", "", self.share, share, False))
        return found


def missing_peer(peer: str, times: dict[str, float]) -> str:
    return "no torchvision" if "torchvision" in peer and times and peer not in times else ""


OTSU = "segmented Otsu + labels + weights"
NMS = "rescored NMS"
GOALS = [
    Goal(OTSU, bm_mutual_labels.case, (1_000_000, 2000), (2000, 5), graph=40 * MICROSECOND,
         faster_than={"torch, vectorized": 10, "torch, per gt": 1000}),
    Goal(OTSU, bm_mutual_labels.case, (10_000, 50), (500, 3), graph=12 * MICROSECOND,
         faster_than={"torch, vectorized": 20}),
    Goal("segmented Otsu", lambda n, k, s: bm_segmented_otsu.exact(*group_inputs(n, k, s.device), k, s),
         (1_000_000, 2000), (2000, 5)),
    Goal("match priors to gts", bm_match_boxes.case, ("anchors", 200_000, 100, 16), ("random", 500, 10, 2),
         called=0.35 * MILLISECOND, faster_than={"torchvision": 20}),
    Goal("top priors by score and IoU", bm_topk_alignment.case, (800, 1216, 20, 16), (256, 416, 4, 2),
         called=0.2 * MILLISECOND, faster_than={"torch, matrix": 10}),
    Goal("pairwise IoU", bm_box_iou.case, (200_000, 500), (200, 60), graph=115 * MICROSECOND, share=0.8),
    *(
        Goal(f"aligned {kind.upper()}, forward + backward", lambda n, s, k=kind: bm_paired_box_iou.case(n, k, s),
             (1_000_000,), (500,), graph=35 * MICROSECOND, faster_than={"torch, eager": 8})
        for kind in ("iou", "giou")
    ),
    Goal("GIoU loss, forward + backward", bm_iou_loss.case, (40_000, 300, "giou"), (500, 20, "giou")),
    *(
        Goal(f"focal loss of {dtype}, forward + backward".replace("torch.", ""),
             lambda n, c, s, t=dtype: bm_sigmoid_focal_loss.case(n, c, t, s), (200_000, 80), (50, 8))
        for dtype in (torch.float32, torch.bfloat16)
    ),
    Goal(NMS, bm_rescored_nms.case, (16, 1000, 80), (2, 40, 3), graph=40 * MICROSECOND, called=70 * MICROSECOND,
         faster_than={"torchvision, per image": 50}),
    Goal(NMS, bm_rescored_nms.case, (64, 10_000, 80), (2, 60, 3), called=0.5 * MILLISECOND,
         faster_than={"torchvision, per image": 100}),
    Goal(NMS, bm_rescored_nms.case, (64, 10_000, None), (2, 60, None), called=3 * MILLISECOND,
         faster_than={"torchvision, per image": 15}),
    *(
        Goal("IoU-NMS", bm_iou_nms.case, (batch, n, classes), (2, 40, classes and 3), slower_than={"rescored_nms": 1.3})
        for batch, n, classes in ((16, 1000, 80), (64, 10_000, 80), (64, 10_000, None))
    ),
    Goal("segmented Spearman", bm_segmented_spearman.case, (1_000_000, 2000), (500, 5)),
]  # fmt: skip


@dataclass
class Result:
    goal: Goal
    row: Row | None
    limit: float | None
    """Milliseconds that the device's limits ask for; None where no limit is known."""
    error: str = ""

    @property
    def share(self) -> float | None:
        """Of the limit that ours reaches, from a graph where there is one."""
        if self.row is None or not self.limit:
            return None
        return self.limit / self.row.milliseconds.get(GRAPH, self.row.milliseconds[OURS])

    @property
    def verdicts(self) -> list[Verdict]:
        return self.goal.verdicts(self.row, self.share)

    def as_dict(self) -> dict[str, object]:
        row = self.row
        return {
            "operator": self.goal.operator,
            "case": row and row.case,
            "milliseconds": {} if row is None else row.milliseconds,
            "limit_milliseconds": self.limit,
            "share_of_limit": self.share,
            "error": self.error,
        }


def measure_goal(goal: Goal, settings: Settings, ceilings: Ceilings) -> Result:
    """Checked against its peers, then measured; what goes wrong is the row's own."""
    try:
        case = goal.case(settings)
        if case.check is not None:
            case.check()
        row = Row(goal.operator, case.name, measure(case, settings), case.single_threaded)
    except Exception as error:
        return Result(goal, None, None, f"{type(error).__name__}: {error}")
    limit = ceilings.seconds(
        moved_bytes=case.moved_bytes, written_bytes=case.written_bytes, lane_operations=case.lane_operations
    )
    return Result(goal, row, 1e3 * limit)


def matching_memory(settings: Settings) -> Verdict:
    """What matching takes beside its inputs and results on a GPU, where the matrix would take 400 MB."""
    n, m = 200_000, 500
    case = bm_match_boxes.case("random", n, m, 1, settings)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    results = case.ours()
    taken = torch.cuda.max_memory_allocated() - before - sum(t.numel() * t.element_size() for t in results)
    return Verdict(f"match priors to gts, {n:,} x {m}", "memory beside the results", "MB", 10, True, taken / MEGABYTE)


def markdown(results: list[Result], ceilings: Ceilings, verdicts: list[Verdict], found: dict[str, object]) -> str:
    replay = "-" if ceilings.replay_seconds is None else f"{ceilings.replay_seconds * 1e6:.2f} us"
    copy, write = (rate / 1e12 for rate in (ceilings.copied_bytes_per_second, ceilings.written_bytes_per_second))
    lines = [
        f"{circumstances(found)}. Limits measured in the same run: copy {copy:.2f} TB/s, write {write:.2f} TB/s, "
        f"{ceilings.lane_operations_per_second / 1e12:.1f} T float32 operations/s, a graph's smallest replay {replay}.",
        "",
        "| operator | case | called | in a graph | share of the limit | peers: time (ratio) |",
        "|---|---|--:|--:|--:|---|",
    ]
    for result in results:
        if result.row is None:
            lines.append(f"| {result.goal.operator} | failed: {result.error} | | | | |")
            continue
        row = result.row
        times = row.milliseconds
        cells = [
            result.goal.operator,
            row.case,
            f"{times[OURS]:.4f}",
            f"{times[GRAPH]:.4f}" if GRAPH in times else "-",
            "-" if result.share is None else f"{100 * result.share:.0f} %",
            ", ".join(f"{row.shown(p)} {times[p]:.3f} ({row.ratio(p):.1f}x)" for p in times if p not in OWN) or "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", ONE_THREAD, "", *(table(verdicts) if verdicts else [TRIAL])]) + "\n"


def run(settings: Settings) -> tuple[dict[str, object], str, bool]:
    """-> (record, markdown, whether all rows could be measured)."""
    found = facts(settings)
    ceilings = measure_ceilings(settings)
    results = []
    for goal in GOALS:
        results.append(measure_goal(goal, settings, ceilings))
        print(results[-1].error or format_row(results[-1].row), flush=True)
    verdicts = []
    if settings.device == "cuda" and not settings.quick:
        verdicts = [verdict for result in results for verdict in result.verdicts] + [matching_memory(settings)]
    record = {
        **found,
        "trial": not verdicts,
        "torchvision": why_not(settings.device) or "used",
        "ceilings": ceilings.as_dict(),
        "rows": [result.as_dict() for result in results],
        "verdicts": [verdict.as_dict() for verdict in verdicts],
    }
    return record, markdown(results, ceilings, verdicts, found), not any(result.error for result in results)


def main() -> int:
    parser = argparse.ArgumentParser(description="The operators on a GPU against their targets.")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny cases: tries the program, measures nothing of use")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    record, text, complete = run(Settings(arguments.device, arguments.quick))
    write_record(arguments, record, text)
    return 0 if complete else 1


if __name__ == "__main__":
    raise SystemExit(main())
