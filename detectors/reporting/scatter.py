"""Score against IoU of a run's predictions, with the rank correlations of both protocols (mlc_ext.divergence)."""

from __future__ import annotations

import numpy as np

from mlc_ext.divergence import Divergence

from .charts import Chart, drawing

MAX_POINTS = 3000
"""Points drawn at most: every n-th pair in the order of the images."""


def scatter_charts(divergence: Divergence, number: int, color: str) -> list[Chart]:
    """The pairs of protocol (b), and how rho is spread over the gts of protocol (a), of run ``number``."""
    state, found = divergence.state_dict(), divergence.compute()
    scores, ious = (sampled(state[name].numpy()) for name in ("scores", "ious"))
    rhos = state["rhos"].numpy()
    rhos = rhos[~np.isnan(rhos)]
    charts: list[Chart] = []
    text = f"score against IoU, pooled rho {_rho(found['pooled'])}"
    with drawing(f"scatter_{number}.png", text, charts, height=3.2) as pairs:
        pairs.scatter(ious, scores, s=5 if len(ious) > 300 else 20, alpha=0.4, color=color, linewidths=0)
        pairs.set(title=f"(b) pooled: rho = {_rho(found['pooled'])}", xlabel="IoU with the object",
                  ylabel="score ranked by", xlim=(divergence.iou_threshold, 1), ylim=(0, 1))  # fmt: skip
    text = f"rho of the objects, mean {_rho(found['per_gt'])}"
    with drawing(f"rho_{number}.png", text, charts, height=3.2) as spread:
        spread.hist(rhos, bins=np.linspace(-1, 1, 21), color=color, edgecolor="white", linewidth=0.5)
        spread.set(title=f"(a) by object: mean rho = {_rho(found['per_gt'])}", xlabel="rho of an object's predictions",
                   ylabel="objects", xlim=(-1, 1))  # fmt: skip
        if np.isfinite(found["per_gt"]):
            spread.axvline(found["per_gt"], color="black", linewidth=1.2, linestyle="--")
    return charts


def sampled(values: np.ndarray, most: int = MAX_POINTS) -> np.ndarray:
    """[M] -> up to ``most`` of them, evenly spaced."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(int)]


def _rho(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"
