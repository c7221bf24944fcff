"""The assignment rules of baseline detectors. Each returns an :class:`mlc_ext.Assignment`."""

from .fcos import FCOSAssigner
from .max_iou import MaxIoUAssigner

__all__ = ["FCOSAssigner", "MaxIoUAssigner"]
