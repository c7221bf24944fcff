"""MLC: modulating localization and classification for harmonized object detection.

C++/CUDA operators (`torch.ops.mlc_ext.*`) and the method built on them: mutual labeling, IoU rescoring, their losses
and the divergence metric. It needs torch and numpy. The detectors of `mlc_ext.detectors` need more packages
(`pip install 'mlc-ext[detectors]'`) and are not imported here.
"""

from . import _program_start  # isort: skip  # noqa: F401  (first: importing torch takes seconds)
from pathlib import Path as _Path

from . import _load
from ._version import __version__

_C, _C_cuda = _load.load()

_TREE = _Path(__file__).resolve().parents[1]
if (_TREE / "detectors" / "__init__.py").is_file() and (_TREE / "csrc").is_dir():
    __path__.append(str(_TREE))  # a source tree that is not installed: `mlc_ext.detectors` is the folder detectors/

# ruff: noqa: E402  (the operators must be registered first)
from .assigners import (
    Assigner,
    ATSSAssigner,
    AutoAssignCriterion,
    FCOSAssigner,
    MALAssigner,
    MaxIoUAssigner,
    PAAAssigner,
    Predictions,
    SimOTAAssigner,
    TaskAlignedAssigner,
    alignment_targets,
)
from .assignment import Assignment
from .config import MLCConfig
from .divergence import Divergence
from .losses import (
    binary_cross_entropy_loss,
    centerness_loss,
    centerness_target,
    count_per_image,
    iou_rescoring_loss,
    l1_loss,
    normalizer,
    prediction_alignment_loss,
    quality_focal_loss,
    reduce_mean,
    smooth_l1,
    varifocal_loss,
)
from .mutual_labeling import TaskTargets, mlc_losses, task_targets
from .ops import (
    MatchedBoxes,
    MutualLabels,
    NmsResult,
    TopkAlignment,
    batched_iou_nms,
    batched_rescored_nms,
    box_iou,
    iou_loss,
    iou_nms,
    match_boxes,
    mutual_labels,
    paired_box_iou,
    rescored_nms,
    segmented_otsu,
    segmented_spearman,
    sigmoid_focal_loss,
    topk_alignment,
)
from .prediction_file import PredictionWriter
from .sampling import sample_at_most, sample_balanced, sample_tasks

__all__ = [
    "ATSSAssigner",
    "Assigner",
    "Assignment",
    "AutoAssignCriterion",
    "Divergence",
    "FCOSAssigner",
    "MALAssigner",
    "MLCConfig",
    "MatchedBoxes",
    "MaxIoUAssigner",
    "MutualLabels",
    "NmsResult",
    "PAAAssigner",
    "PredictionWriter",
    "Predictions",
    "SimOTAAssigner",
    "TaskAlignedAssigner",
    "TaskTargets",
    "TopkAlignment",
    "__version__",
    "alignment_targets",
    "batched_iou_nms",
    "batched_rescored_nms",
    "binary_cross_entropy_loss",
    "box_iou",
    "build_info",
    "centerness_loss",
    "centerness_target",
    "count_per_image",
    "iou_loss",
    "iou_nms",
    "iou_rescoring_loss",
    "l1_loss",
    "match_boxes",
    "mlc_losses",
    "mutual_labels",
    "normalizer",
    "paired_box_iou",
    "prediction_alignment_loss",
    "quality_focal_loss",
    "reduce_mean",
    "rescored_nms",
    "sample_at_most",
    "sample_balanced",
    "sample_tasks",
    "segmented_otsu",
    "segmented_spearman",
    "sigmoid_focal_loss",
    "smooth_l1",
    "task_targets",
    "topk_alignment",
    "varifocal_loss",
]


def build_info() -> dict[str, object]:
    """How the operators were built and what they run on.

    Returns:
        A dict of versions (mlc_ext, torch, Python), compiler, flags, the path of the compiled module, and whether the
        CUDA kernels are present and for which architectures.
    """
    import platform

    import torch

    return {
        "version": __version__,
        "built_version": _C.version,
        "built_with_torch": _C.torch_version,
        "torch_target_version": _C.torch_target_version,
        "compiler": _C.compiler,
        "cxx_standard": _C.cxx_standard,
        "flags": _C.flags,
        "module": _C.__file__,
        "cuda": _C_cuda is not None,
        "cuda_version": getattr(_C_cuda, "cuda_version", None),
        "cuda_architectures": getattr(_C_cuda, "architectures", None),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
