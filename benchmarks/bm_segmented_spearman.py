"""segmented_spearman against scipy, group by group (where it is installed)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from _harness import Case, Settings

from mlc_ext import segmented_spearman

try:
    from scipy.stats import rankdata
except ImportError:
    rankdata = None

SIZES = [(10_000, 200), (100_000, 2000), (1_000_000, 2000), (1_000_000, 1)]


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """scipy's spearmanr without its p-value."""
    return np.corrcoef(rankdata(x), rankdata(y))[0, 1]


def cases(settings: Settings) -> Iterator[Case]:
    for n, groups in SIZES[:2] if settings.quick else SIZES:
        yield case(n, groups, settings)


def case(n: int, groups: int, settings: Settings) -> Case:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, n, generator=generator).to(settings.device)
    ids = torch.randint(0, groups, (n,), generator=generator).to(settings.device)
    name = f"{n:,} pairs, {groups:,} groups"

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        return segmented_spearman(x, y, ids, groups)

    if rankdata is None:
        return Case(name, ours, {})
    host_x, host_y, host_ids = (t.cpu().numpy() for t in (x, y, ids))
    order = host_ids.argsort(kind="stable")
    cuts = np.cumsum(np.bincount(host_ids, minlength=groups))[:-1]
    pairs = list(zip(np.split(host_x[order], cuts), np.split(host_y[order], cuts), strict=True))

    def peer() -> list[float]:
        return [rank_correlation(a, b) for a, b in pairs]

    def check() -> None:
        np.testing.assert_allclose(ours()[0].cpu().numpy(), peer(), atol=1e-9)

    peers = {"scipy, per group": peer}
    return Case(name, ours, peers, check, single_threaded=tuple(peers))
