"""MMDetection's recorded outputs: in env MLC_GOLDEN_DIR, or ../shared/golden beside the repository."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "golden"


def load_golden(head: str) -> list[dict[str, torch.Tensor]]:
    """Every ``<head>_*.npz`` as a dict of tensors; skips the calling test where there are none."""
    folder = Path(os.environ.get("MLC_GOLDEN_DIR", DEFAULT))
    files = sorted(folder.glob(f"{head}_*.npz"))
    if not files:
        pytest.skip(f"no {head}_*.npz in {folder} (set MLC_GOLDEN_DIR)")
    return [{k: torch.from_numpy(v) for k, v in np.load(f).items()} for f in files]
