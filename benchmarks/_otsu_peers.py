"""What one writes without mlc_ext: Otsu's thresholds, vectorized in torch and group by group."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# values, groups; the rows of the project's performance targets
SIZES = [(10_000, 50), (100_000, 200), (1_000_000, 500), (1_000_000, 2000)]


def group_inputs(n: int, k: int, device: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Skewed values in 0..1, as scores and IoUs are, and unsorted int64 group ids."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(n, generator=generator) ** 3
    return values.to(device), torch.randint(0, k, (n,), generator=generator).to(device)


def torch_otsu(values: Tensor, ids: Tensor, k: int) -> Tensor:
    """All groups at once: two stable sorts into (group, value) order, prefix sums, a segment arg-max."""
    n = values.numel()
    order = values.argsort(stable=True)
    order = order[ids[order].argsort(stable=True)]
    v, g = values[order].double(), ids[order]
    sizes = torch.bincount(g, minlength=k)
    starts = sizes.cumsum(0) - sizes
    means = torch.zeros(k, dtype=torch.float64, device=v.device).index_add_(0, g, v) / sizes.clamp(min=1)
    prefix = (v - means[g]).cumsum(0)
    before = torch.cat([prefix.new_zeros(1), prefix])[starts]
    position = torch.arange(n, device=v.device)
    below = position - starts[g] + 1
    centered = prefix - before[g]
    objective = centered.square() / (below * (sizes[g] - below)).clamp(min=1)
    same_next = torch.cat([(g[1:] == g[:-1]) & (v[1:] != v[:-1]), g.new_zeros(1, dtype=torch.bool)])
    objective = torch.where(same_next, objective, -1.0)
    best = objective.new_full((k,), -1.0).scatter_reduce(0, g, objective, "amax")
    hit = torch.where((objective == best[g]) & same_next, position, n)
    first = torch.full_like(starts, n).scatter_reduce(0, g, hit, "amin")
    lone = torch.where(sizes > 0, v[starts.clamp(max=n - 1)], float("nan"))  # groups that have no cut
    return torch.where(first < n, v[first.clamp(max=n - 1)], lone).to(values.dtype)


def torch_otsu_group(group: Tensor) -> Tensor:
    """One group's threshold, without asking the device for a value."""
    ordered = group.sort().values.double()
    below = torch.arange(1, len(ordered), device=group.device)
    centered = (ordered - ordered.mean()).cumsum(0)[:-1]
    objective = torch.where(ordered[1:] != ordered[:-1], centered**2 / (below * (len(ordered) - below)), -1.0)
    return ordered[objective.argmax()].to(group.dtype)


def split(values: np.ndarray, ids: np.ndarray, k: int) -> list[np.ndarray]:
    order = np.argsort(ids, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(ids, minlength=k))[:-1])


def numpy_otsu_group(group: np.ndarray) -> float:
    ordered = np.sort(group).astype(np.float64)
    if not len(ordered) or ordered[0] == ordered[-1]:
        return ordered[0] if len(ordered) else float("nan")
    below = np.arange(1, len(ordered))
    centered = np.cumsum(ordered - ordered.mean())[:-1]
    objective = np.where(ordered[1:] != ordered[:-1], centered**2 / (below * (len(ordered) - below)), -1)
    return ordered[objective.argmax()]


def numpy_otsu(values: np.ndarray, ids: np.ndarray, k: int) -> list[float]:
    return [numpy_otsu_group(group) for group in split(values, ids, k)]


def agree(ours: Tensor, theirs: Tensor) -> None:
    """Equal (NaN where a group is empty), but for the rare group in which rounding in a peer's sums prefers a
    neighboring cut."""
    ours, theirs = ours.cpu(), theirs.cpu().to(ours.dtype)
    differ = ((ours != theirs) & ~(ours.isnan() & theirs.isnan())).sum().item()
    if differ > max(1, len(ours) / 100):
        raise AssertionError(f"the peer has {differ} other thresholds, of {len(ours)}")
