"""Precision and recall as arrays over IoU thresholds, recall levels and classes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PrecisionCurves(NamedTuple):
    """Precision of all areas, classes averaged; NaN without any object."""

    ious: np.ndarray
    """[T] IoU thresholds."""
    recalls: np.ndarray
    """[R] recall levels."""
    precision: np.ndarray
    """[T, R] at each threshold and recall level."""

    @property
    def ap(self) -> np.ndarray:
        """[T] AP at each threshold; its mean is AP."""
        return self.precision.mean(1)


class ClassCurves(NamedTuple):
    """Precision and recall of all areas by class; NaN for a class without objects."""

    categories: list[int]
    """The K category ids, sorted."""
    ious: np.ndarray
    """[T] IoU thresholds."""
    recalls: np.ndarray
    """[R] recall levels."""
    precision: np.ndarray
    """[T, R, K]."""
    recall: np.ndarray
    """[T, K] the largest recall."""


class RecallCurves(NamedTuple):
    """Recall of proposals; NaN without objects."""

    ious: np.ndarray
    """[T] IoU thresholds."""
    counts: list[int]
    """[M] proposals an image."""
    recall: np.ndarray
    """[T, M]; the mean over thresholds is AR@count."""
