"""COCO's evaluation by pycocotools or faster-coco-eval, and the means that it takes over classes."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_LOG = logging.getLogger(__name__)


class Backend:
    """COCO's code in the package ``name``: "pycocotools", or "faster_coco_eval" for the same figures in less time.

    If the latter is not installed, pycocotools evaluates, with a warning. ValueError for another name.
    """

    def __init__(self, name: str):
        self._data, self._evaluation = _load(name)

    def data(self, content: Mapping[str, Any]) -> Any:
        """COCO detection data as the package takes them."""
        with contextlib.redirect_stdout(io.StringIO()):
            data = self._data()
            data.dataset = dict(content)
            data.createIndex()
        return data

    def evaluate(self, truth: Any, results: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]) -> Any:
        """The accumulated evaluation of detections in COCO's results format.

        Args:
            truth: of :meth:`data`. parameters: those of the package's ``Params`` that are not its defaults.
        """
        rows = [
            {**row, "id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
            for number, row in enumerate(results, start=1)
        ]
        # Not COCO.loadRes, which cannot take an empty list.
        detections = self.data({**truth.dataset, "annotations": rows})
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = self._evaluation(truth, detections, "bbox")
            for name, value in parameters.items():
                setattr(evaluation.params, name, value)
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation


def _load(name: str) -> tuple[type, type]:
    """(COCO, COCOeval) of the package."""
    if name == "faster_coco_eval":
        try:
            from faster_coco_eval import COCO as FasterCOCO
            from faster_coco_eval import COCOeval_faster
        except ImportError as error:
            _LOG.warning("%s: pycocotools evaluates instead (pip install mlc-ext[faster])", error)
        else:
            return FasterCOCO, COCOeval_faster
    elif name != "pycocotools":
        raise ValueError(f"the evaluator must be pycocotools or faster_coco_eval, got {name!r}")
    # here, so that the detectors can be used without it
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval


def defined_mean(values: np.ndarray) -> float:
    """Mean over what is defined, NaN if nothing is: pycocotools writes -1 where there is no object."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def class_means(values: np.ndarray) -> np.ndarray:
    """[..., K] -> [...]: :func:`defined_mean` over the classes."""
    defined = values > -1
    count = defined.sum(-1)
    return np.where(count > 0, np.where(defined, values, 0).sum(-1) / np.maximum(count, 1), np.nan)
