"""The assignment rules of baseline detectors. Each returns an :class:`mlc_ext.Assignment`."""

from ._batch import Predictions
from .atss import ATSSAssigner
from .fcos import FCOSAssigner
from .max_iou import MaxIoUAssigner
from .paa import PAAAssigner
from .sim_ota import SimOTAAssigner
from .task_aligned import TaskAlignedAssigner, alignment_targets

__all__ = [
    "ATSSAssigner",
    "FCOSAssigner",
    "MaxIoUAssigner",
    "PAAAssigner",
    "Predictions",
    "SimOTAAssigner",
    "TaskAlignedAssigner",
    "alignment_targets",
]
