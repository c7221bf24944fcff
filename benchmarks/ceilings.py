"""What the machine can do at most: python benchmarks/ceilings.py [--device cpu]

Bandwidths of a copy and of a fill within the device, the replay of a CUDA graph of one smallest kernel, and the rate of
float32 multiply-adds of a large product: what an operator's time is held against.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from _harness import Settings, captured


@dataclass(frozen=True)
class Ceilings:
    copied_bytes_per_second: float
    """Read and written bytes both count."""
    written_bytes_per_second: float
    lane_operations_per_second: float
    """float32 operations, a multiply-add being one."""
    replay_seconds: float | None
    """Of a CUDA graph with one kernel over one element; None without CUDA."""

    def seconds(self, *, moved_bytes: int = 0, written_bytes: int = 0, lane_operations: int = 0) -> float:
        """The least time in which so much can be done: the larger of what each limit asks for."""
        return max(
            moved_bytes / self.copied_bytes_per_second,
            written_bytes / self.written_bytes_per_second,
            lane_operations / self.lane_operations_per_second,
            self.replay_seconds or 0.0,
        )

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


def fastest(run: Callable[[], object], settings: Settings, calls: int) -> float:
    """Seconds of a call: the minimum of turns of ``calls`` calls."""
    run()
    best, end = float("inf"), time.perf_counter() + settings.seconds
    while time.perf_counter() < end or best == float("inf"):
        settings.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        settings.synchronize()
        best = min(best, (time.perf_counter() - start) / calls)
    return best


def measure_ceilings(settings: Settings) -> Ceilings:
    device, quick = settings.device, settings.quick or settings.device == "cpu"
    size = 2**22 if quick else 2**30  # bytes, far beyond the caches
    source, target = (torch.zeros(size // 4, device=device) for _ in range(2))
    copied = 2 * size / fastest(lambda: target.copy_(source), settings, 4)
    written = size / fastest(lambda: target.fill_(1.0), settings, 4)
    side = 256 if quick else 8192
    a, b = (torch.rand(side, side, device=device) for _ in range(2))
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    try:
        operations = side**3 / fastest(lambda: torch.mm(a, b), settings, 2)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    replay = None
    if device == "cuda":
        one = torch.zeros(1, device=device)
        replay = fastest(captured(lambda: one.add_(1))[0], settings, 1000)
    return Ceilings(copied, written, operations, replay)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the machine can do at most.")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    arguments = parser.parse_args()
    print(json.dumps(measure_ceilings(Settings(arguments.device)).as_dict(), indent=2))


if __name__ == "__main__":
    main()
