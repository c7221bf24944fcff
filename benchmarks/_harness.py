"""Timing of ours against peers: one way to measure, one table, one record.

Contestants of a case take turns in one process, so that a busy moment hits all alike; what counts is the
minimum of a contestant's turns. A case may check that its peers compute the same thing: a wrong peer is none.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
THREADS = 2


ONE_THREAD = "[1 thread]: the peer's implementation uses one thread; mlc_ext uses all that torch may use."
GRAPH = "mlc_ext, graph"
"""The contestant that replays ours from a CUDA graph."""


@dataclass(frozen=True)
class Settings:
    device: str = "cpu"
    quick: bool = False

    @property
    def seconds(self) -> float:
        """Spent on each contestant of a case."""
        if self.device == "cuda":
            return 0.1 if self.quick else 0.4
        return 0.2 if self.quick else 1.5

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


@dataclass
class Case:
    """`ours` and each of `peers` run once, without arguments. check() raises where they disagree."""

    name: str
    ours: Callable[[], object]
    peers: dict[str, Callable[[], object]]
    check: Callable[[], None] | None = None
    moved_bytes: int = 0
    """Of inputs and results: what must be read or written at least."""
    written_bytes: int = 0
    """Of results alone, where these are nearly all."""
    lane_operations: int = 0
    """float32 operations without which ours cannot do, where they are the limit."""
    single_threaded: tuple[str, ...] = ()
    """The peers that use one thread, however many torch may use."""


@dataclass
class Row:
    operator: str
    case: str
    milliseconds: dict[str, float] = field(default_factory=dict)
    """Minimum of each contestant; "mlc_ext" first; on a GPU also ours from a CUDA graph (GRAPH)."""
    single_threaded: tuple[str, ...] = ()
    """As the case's."""

    def ratio(self, peer: str) -> float:
        return self.milliseconds[peer] / self.milliseconds["mlc_ext"]

    def shown(self, contestant: str) -> str:
        """A contestant's name in a table."""
        return f"{contestant} [1 thread]" if contestant in self.single_threaded else contestant


def captured(run: Callable[[], object]) -> tuple[Callable[[], None], object]:
    """`run` in a CUDA graph -> (replay, the results that a replay fills). Raises where it cannot be captured."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # as torch asks for: what is done once, at the first call, is done before
        run()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    return graph.replay, results


def measure(case: Case, settings: Settings) -> dict[str, float]:
    """Milliseconds of each contestant: the minimum of turns taken by all in order."""
    contestants = {"mlc_ext": case.ours, **case.peers}
    if settings.device == "cuda":
        contestants[GRAPH], _held = captured(case.ours)
    turn_seconds = 1e-2 if settings.device == "cuda" else 1e-3  # well above the clock's grain, or a synchronization's

    def turn(run: Callable[[], object], calls: int) -> float:
        run()  # caches and threads are left by the call before: the first call measures those
        settings.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        settings.synchronize()
        return (time.perf_counter() - start) / calls

    once = {name: turn(run, 1) for name, run in contestants.items()}
    for name, run in contestants.items():
        for _ in range(4 if once[name] < 0.01 else 1):
            once[name] = min(once[name], turn(run, 1))
    calls = {name: max(1, round(turn_seconds / seconds)) for name, seconds in once.items()}
    best, spent = dict(once), dict.fromkeys(contestants, 0.0)
    while waiting := [name for name in contestants if spent[name] < settings.seconds]:
        for name in waiting:
            seconds = turn(contestants[name], calls[name])
            best[name] = min(best[name], seconds)
            spent[name] += seconds * calls[name]
    return {name: seconds * 1e3 for name, seconds in best.items()}


def run_cases(operator: str, cases: Iterable[Case], settings: Settings) -> list[Row]:
    """Checks and measures every case, printing each as it is done."""
    rows = []
    for case in cases:
        if case.check is not None:
            case.check()
        rows.append(Row(operator, case.name, measure(case, settings), case.single_threaded))
        print(format_row(rows[-1]), flush=True)
    return rows


def format_row(row: Row) -> str:
    peers = [f"{row.shown(peer)} {ms:.3f} ({row.ratio(peer):.1f}x)" for peer, ms in _peers(row)]
    return f"{row.operator:<15} {row.case:<34} {row.milliseconds['mlc_ext']:>9.3f} ms   " + ", ".join(peers)


def _peers(row: Row) -> list[tuple[str, float]]:
    return [(name, ms) for name, ms in row.milliseconds.items() if name != "mlc_ext"]


def circumstances(facts: dict[str, object]) -> str:
    """What the figures of a document depend on, in a line."""
    return (
        f"{facts['cpu']}, {facts['threads']} thread{'' if facts['threads'] == 1 else 's'}, torch {facts['torch']}, "
        f"{facts['device']}, {facts['date']}, commit {facts['commit']}. Milliseconds, minima"
    )


def markdown(rows: list[Row], facts: dict[str, object]) -> str:
    lines = [
        f"{circumstances(facts)}; the ratio is peer / mlc_ext.",
        "",
        "| operator | case | mlc_ext | peer | peer's time | ratio |",
        "|---|---|--:|---|--:|--:|",
    ]
    for row in rows:
        ours = row.milliseconds["mlc_ext"]
        for peer, ms in _peers(row):
            lines.append(
                f"| {row.operator} | {row.case} | {ours:.3f} | {row.shown(peer)} | {ms:.3f} | {row.ratio(peer):.1f}x |"
            )
    lines += ["", ONE_THREAD]
    if "torchvision" in facts:
        lines += ["", f"torchvision: {facts['torchvision']}."]
    return "\n".join(lines) + "\n"


def write_record(arguments: argparse.Namespace, record: dict[str, object], text: str) -> None:
    """To the files that ``--json`` and ``--markdown`` name, if they do."""
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(text)


def to_json(rows: list[Row], facts: dict[str, object]) -> str:
    results = [dataclasses.asdict(row) for row in rows]
    return json.dumps({**facts, "results": results}, indent=2) + "\n"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def driver() -> str | None:
    """The version of the GPU's driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0].strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def commit() -> str:
    """The short hash, with "+" where tracked files have changed since; without git, MLC_COMMIT."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(ROOT), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("MLC_COMMIT", "unknown")


def facts(settings: Settings) -> dict[str, object]:
    """What a figure depends on."""
    gpu = {}
    if settings.device == "cuda":
        capability = "{}.{}".format(*torch.cuda.get_device_capability())
        gpu = {"driver": driver(), "cuda": torch.version.cuda, "capability": capability}
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if settings.device == "cuda" else "cpu",
        **gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "quick": settings.quick,
    }
