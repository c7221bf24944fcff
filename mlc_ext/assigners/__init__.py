"""The assignment rules of baseline detectors. One contract: ``assigner(priors, targets, predictions)``.

``priors`` are the anchors or points of each level, ``targets`` one dict of boxes (and labels and crowd) per image, and
``predictions`` a :class:`Predictions` for the rules that read it. Each returns an :class:`mlc_ext.Assignment`;
AutoAssign, which assigns by a loss, is a criterion of the same inputs. All are free of host synchronization on CUDA.
"""

from ._inputs import Assigner, Predictions
from .atss import ATSSAssigner
from .auto_assign import AutoAssignCriterion
from .fcos import FCOSAssigner
from .mal import MALAssigner
from .max_iou import MaxIoUAssigner
from .paa import PAAAssigner
from .sim_ota import SimOTAAssigner
from .task_aligned import TaskAlignedAssigner, alignment_targets

__all__ = [
    "ATSSAssigner",
    "Assigner",
    "AutoAssignCriterion",
    "FCOSAssigner",
    "MALAssigner",
    "MaxIoUAssigner",
    "PAAAssigner",
    "Predictions",
    "SimOTAAssigner",
    "TaskAlignedAssigner",
    "alignment_targets",
]
