"""What every operator's registration shares."""

from __future__ import annotations

import torch


def float32_under_autocast(name: str) -> None:
    """Under autocast the operator gets its half inputs as float32: IoUs, thresholds and ranks are no place to round."""
    for device_type in ("cpu", "cuda"):
        torch.library.register_autocast(f"mlc_ext::{name}", device_type, torch.float32)
