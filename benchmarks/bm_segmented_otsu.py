"""segmented_otsu against vectorized torch, a numpy loop over groups, and scikit-image (with bins)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _harness import Case, Settings
from _otsu_peers import SIZES, agree, group_inputs, numpy_otsu, split, torch_otsu

from mlc_ext import segmented_otsu


def cases(settings: Settings) -> Iterator[Case]:
    for n, k in SIZES[:2] if settings.quick else SIZES:
        values, ids = group_inputs(n, k, settings.device)
        yield exact(values, ids, k, settings)
    if settings.device == "cpu":
        for n, k in SIZES[:2] if settings.quick else SIZES:
            case = _binned(*group_inputs(n, k, "cpu"), k)
            if case is not None:
                yield case


def exact(values: torch.Tensor, ids: torch.Tensor, k: int, settings: Settings) -> Case:
    peers = {"torch, vectorized": lambda: torch_otsu(values, ids, k)}
    if settings.device == "cpu":
        arrays = values.numpy(), ids.numpy()
        peers["numpy, per group"] = lambda: torch.tensor(numpy_otsu(*arrays, k))

    def check() -> None:
        for peer in peers.values():
            agree(segmented_otsu(values, ids, k), peer())

    name = f"{len(ids):,} values, {k} groups"
    single = ("numpy, per group",)
    return Case(
        name, lambda: segmented_otsu(values, ids, k), peers, check, moved_bytes=12 * len(ids), single_threaded=single
    )


def _binned(values: torch.Tensor, ids: torch.Tensor, k: int) -> Case | None:
    try:
        from skimage.filters import threshold_otsu
    except ImportError:
        return None
    arrays = values.numpy(), ids.numpy()

    def scikit_image() -> torch.Tensor:
        return torch.tensor([float(threshold_otsu(group, nbins=256)) for group in split(*arrays, k)])

    def ours() -> torch.Tensor:
        return segmented_otsu(values, ids, k, bins=256)

    def check() -> None:
        """Equal, but for the rare group in which scikit-image's float32 histogram prefers a neighboring bin."""
        sizes = torch.tensor([float(group.max() - group.min()) for group in split(*arrays, k)]) / 256
        apart = (ours() - scikit_image()).abs() / sizes
        moved = (apart > 0.01).sum().item()
        if moved > max(1, k / 100) or apart.max() > 1.5:
            raise AssertionError(f"scikit-image has {moved} other thresholds of {k}, up to {apart.max():.1f} bins away")

    name = f"{len(ids):,} values, {k} groups, 256 bins"
    peers = {"scikit-image, per group": scikit_image}
    return Case(name, ours, peers, check, single_threaded=tuple(peers))
