"""The paper's schedules, and the same in proportion for runs of other lengths."""

from __future__ import annotations

_SHORT, _LONG = 19, 24
"""Epochs of the paper's ablations (Tables 1 to 4) and of its final results (Table 5)."""
_MUTUAL_START = 12
"""The epoch after which mutual labeling is on, in both."""
_DROPS = {12: (8, 11), _SHORT: (16, 18), _LONG: (18, 22)}
"""Epochs at which the learning rate falls; 12 is MMDetection's 1x schedule."""


def milestones(epochs: int) -> tuple[float, float]:
    """Epochs at which the learning rate falls: those of 12, 19 or 24 epochs, else in proportion to 19 or (from 24 on)
    24."""
    of = 12 if epochs == 12 else _scaled_from(epochs)
    first, second = _DROPS[of]
    return epochs * first / of, epochs * second / of


def mutual_start(epochs: int) -> float:
    """The epoch after which mutual labeling is on: 12 of 19 and 24, else in proportion to one of them."""
    return epochs * _MUTUAL_START / _scaled_from(epochs)


def _scaled_from(epochs: int) -> int:
    return _LONG if epochs >= _LONG else _SHORT
