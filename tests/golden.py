"""MMDetection's recorded outputs: in env MLC_GOLDEN_DIR, or ../shared/golden beside the repository."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "golden"


def load_golden(head: str) -> list[dict[str, torch.Tensor]]:
    """Every ``<head>_*.npz`` as a dict of tensors; skips the calling test where there are none."""
    folder = Path(os.environ.get("MLC_GOLDEN_DIR", DEFAULT))
    files = sorted(folder.glob(f"{head}_*.npz"))
    if not files:
        pytest.skip(f"no {head}_*.npz in {folder} (set MLC_GOLDEN_DIR)")
    return [{k: torch.from_numpy(v) for k, v in np.load(f).items()} for f in files]


def same_detections(
    found: dict[str, Tensor], recorded: dict[str, Tensor], *, scores: float, boxes: float, relative: float = 0
) -> None:
    """Asserts equal ``boxes``, ``scores`` and ``labels``, best first, up to these tolerances. Boxes whose scores are
    equal (within the tolerance) are compared as a set: their order is not defined."""
    from scipy.optimize import linear_sum_assignment  # not needed by the operators' tests

    torch.testing.assert_close(found["scores"], recorded["scores"], rtol=relative, atol=scores)
    falls = (recorded["scores"].diff() < -scores).nonzero().flatten() + 1
    for own, theirs in zip(*(_runs(each, falls) for each in (found, recorded)), strict=True):
        alike = torch.isclose(own["boxes"][:, None], theirs["boxes"][None], rtol=relative, atol=boxes).all(-1)
        alike &= own["labels"][:, None] == theirs["labels"][None]
        assert alike.numpy()[linear_sum_assignment(~alike.numpy())].all(), (own, theirs)


def _runs(detections: dict[str, Tensor], starts: Tensor) -> list[dict[str, Tensor]]:
    parts = {key: torch.tensor_split(detections[key], starts) for key in ("boxes", "labels")}
    return [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]
