"""The settings of the method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ._errors import choice
from .assignment import CANDIDATES

_PAPER_ALPHA = {"fcos-": 0.0, "fcos": 0.0, "retinanet": 0.5, "rpn": 2.0}  # section 4.1


@dataclass(frozen=True)
class MLCConfig:
    """The method's settings: which parts are on, and the values that the paper gives or leaves open.

    :meth:`paper` has the paper's settings of each detector.

    Raises:
        ValueError: a setting is out of its range.
    """

    ml: bool = True
    """Mutual labeling (Eq. 4-9)."""
    iur: bool = True
    """IoU rescoring (Eq. 10, 11): train the IoU layer and rank by score x IoU."""
    start_epoch: float = 12
    """Epochs of baseline training before mutual labeling starts (the paper: 12); a fraction is a part of an epoch."""
    alpha: float = 0.0
    """Exponent of the weights of originally ignored priors (Eq. 7, 8)."""
    gamma: float = 1.0
    """Weight of the IoU rescoring loss in Eq. 11; the paper gives none."""
    degenerate: str = "baseline"
    """The rule for a gt whose candidates cannot be split: "baseline" or "literal" (see mlc_ext.mutual_labels)."""
    candidates: str | None = None
    """J^k: "positives" of the baseline, "own_levels" (FCOS) or "all" (see the assigners); None: "all" for RetinaNet and
    RPN, "positives" for FCOS and for other assigners. Read where a detector builds its assigner."""
    min_gap: float = 0.0
    """A group whose two classes have means that differ by less than this is not split; 0: off."""
    metric: str = "crossed"
    """The values that a task's labels are cut from: "crossed", the other task's (the paper, Eq. 4-6), or "alignment",
    S * I^alignment_exponent for both tasks. The latter is this project's extension, not the paper's method; FCOS's own
    candidates then are "all" (docs/extension.md)."""
    alignment_exponent: float = 6.0
    """Exponent of I in the metric "alignment"."""
    tau: str = "lower"
    """Where a threshold lies between the two classes: "lower", the largest value of the lower one, or "midpoint" of
    that and the smallest value above. The labels are the same, the weights of Eq. 7 and 8 are not."""
    bins: int | None = None
    """None for exact Otsu thresholds, or the number of histogram bins."""
    iur_start_epoch: float | None = None
    """Epochs before the IoU layer is trained and ranks detections; None: start_epoch, 0: from the start."""
    detach_iou_target: bool = True
    """Whether the IoU target is a constant of the IoU rescoring loss."""
    alignment: float = 0.0
    """Weight of the prediction alignment loss, MSE(S, I) over baseline positives (the paper's comparison); 0: off."""

    def __post_init__(self) -> None:
        choice("MLCConfig", "degenerate", self.degenerate, ("baseline", "literal"))
        choice("MLCConfig", "candidates", self.candidates, (None, *CANDIDATES))
        choice("MLCConfig", "metric", self.metric, ("crossed", "alignment"))
        choice("MLCConfig", "tau", self.tau, ("lower", "midpoint"))
        for name in ("start_epoch", "iur_start_epoch", "alpha", "gamma", "alignment", "min_gap", "alignment_exponent"):
            if (value := getattr(self, name)) is None:
                continue
            if not math.isfinite(value):
                raise ValueError(f"MLCConfig: {name} must be finite, got {value}")
            if value < 0:
                raise ValueError(f"MLCConfig: {name} must not be negative, got {value}")
        if self.bins is not None and not 2 <= self.bins <= 65536:
            raise ValueError(f"MLCConfig: bins must be in [2, 65536] or None, got {self.bins}")
        if self.bins is not None and self.tau == "midpoint":
            raise ValueError("MLCConfig: tau='midpoint' is for exact thresholds; with bins it is the center of a bin")

    @property
    def rescoring_start(self) -> float:
        """The epoch from which the IoU layer is trained and used, with ``iur``."""
        return self.start_epoch if self.iur_start_epoch is None else self.iur_start_epoch

    def starts(self) -> dict[str, float]:
        """The epochs at which the parts that are on ("mutual labeling", "IoU rescoring") start."""
        parts = (("mutual labeling", self.ml, self.start_epoch), ("IoU rescoring", self.iur, self.rescoring_start))
        return {name: start for name, on, start in parts if on}

    def not_started(self, epoch: float) -> str:
        """The parts that are on and start later than ``epoch``, for a message; empty if there is none."""
        return ", ".join(f"{name} (from epoch {start:g})" for name, start in self.starts().items() if start > epoch)

    def candidates_of(self, own: str) -> str:
        """The candidates to build an assigner with, where ``own`` are the detector's."""
        return own if self.candidates is None else self.candidates

    @property
    def fcos_candidates(self) -> str:
        """The candidates to build FCOS's assigner with."""
        return self.candidates_of("all" if self.metric == "alignment" else "positives")

    @classmethod
    def paper(cls, detector: str, **changes: Any) -> MLCConfig:
        """The paper's settings of a detector: the defaults, with the detector's ``alpha``.

        Args:
            detector: ``"fcos-"`` (FCOS without centerness) or ``"fcos"``: alpha 0; ``"retinanet"``: 0.5; ``"rpn"``: 2.
            changes: other values for fields of :class:`MLCConfig`.

        Raises:
            ValueError: unknown detector, or a setting is out of its range. TypeError: a change is not a field.

        Source: paper section 4.1.
        """
        choice("MLCConfig.paper", "detector", detector, tuple(_PAPER_ALPHA))
        settings: dict[str, Any] = {"alpha": _PAPER_ALPHA[detector]}
        return cls(**(settings | changes))
