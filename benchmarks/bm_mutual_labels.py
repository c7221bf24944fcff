"""mutual_labels (two thresholds a gt, labels, weights) against vectorized torch and numpy gt by gt."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from _harness import Case, Settings
from _otsu_peers import SIZES, group_inputs, numpy_otsu_group, torch_otsu, torch_otsu_group

from mlc_ext import mutual_labels

ALPHA = 0.5


def torch_labels(scores, ious, ids, baseline, k):
    ignored = baseline == -1
    results = []
    for values in (ious, scores):
        tau = torch_otsu(values, ids, k)[ids]
        results.append((values > tau).to(torch.int8))
        results.append(torch.where(ignored, (values - tau).abs() ** ALPHA, 1.0))
    cls_labels, cls_weights, loc_labels, loc_weights = results
    return cls_labels, loc_labels, cls_weights, loc_weights * loc_labels


def numpy_labels(scores, ious, ids, baseline, k):
    """Gt after gt, as an assigner written over the boxes of an image does it."""
    n = len(ids)
    labels, weights = np.zeros((2, n), np.int8), np.ones((2, n), np.float32)
    order = np.argsort(ids, kind="stable")
    for members in np.split(order, np.cumsum(np.bincount(ids, minlength=k))[:-1]):
        ignored = members[baseline[members] == -1]
        for task, values in enumerate((ious, scores)):
            tau = numpy_otsu_group(values[members])
            labels[task, members] = values[members] > tau
            weights[task, ignored] = np.abs(values[ignored] - tau) ** ALPHA
    return labels[0], labels[1], weights[0], weights[1] * labels[1]


def loop_labels(scores, ious, ids, baseline, k):
    """Gt after gt with torch's operators: the same on a device."""
    labels = torch.zeros(2, len(ids), dtype=torch.int8, device=ids.device)
    weights = torch.ones(2, len(ids), device=ids.device)
    for gt in range(k):
        members = torch.nonzero(ids == gt).flatten()
        ignored = members[baseline[members] == -1]
        for task, values in enumerate((ious, scores)):
            tau = torch_otsu_group(values[members])
            labels[task, members] = (values[members] > tau).to(torch.int8)
            weights[task, ignored] = (values[ignored] - tau).abs() ** ALPHA
    return labels[0], labels[1], weights[0], weights[1] * labels[1]


def cases(settings: Settings) -> Iterator[Case]:
    for n, k in SIZES[:2] if settings.quick else SIZES:
        yield case(n, k, settings)


def case(n: int, k: int, settings: Settings) -> Case:
    scores, ids = group_inputs(n, k, settings.device)
    ious, _ = group_inputs(n, k, settings.device, seed=1)
    generator = torch.Generator().manual_seed(2)
    baseline = torch.randint(-1, 2, (n,), generator=generator).to(torch.int8).to(settings.device)
    peers = {"torch, vectorized": lambda: torch_labels(scores, ious, ids, baseline, k)}
    if settings.device == "cpu":
        arrays = [t.numpy() for t in (scores, ious, ids, baseline)]
        peers["numpy, per gt"] = lambda: [torch.from_numpy(a) for a in numpy_labels(*arrays, k)]
    else:
        peers["torch, per gt"] = lambda: loop_labels(scores, ious, ids, baseline, k)

    def ours():
        return mutual_labels(scores, ious, ids, baseline, k, alpha=ALPHA, degenerate="literal")  # as the peers

    def check() -> None:
        """The same labels and weights, but in the rare gt whose thresholds rounding in a peer's sums moves."""
        for name, peer in peers.items():
            differ = torch.zeros(n, dtype=torch.bool, device=ids.device)
            for a, b in zip(ours()[:4], peer(), strict=True):
                differ |= ~torch.isclose(a.float(), b.to(a.device).float(), atol=1e-4)
            gts = len(ids[differ].unique())
            if gts > max(1, k / 100):
                raise AssertionError(f"{name} has other labels or weights in {gts} of {k} gts")

    # scores, IoUs, ids and labels in; labels and weights out
    single = ("numpy, per gt",)
    return Case(f"{n:,} priors, {k} gts", ours, peers, check, moved_bytes=27 * n, single_threaded=single)
