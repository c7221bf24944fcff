"""MLC: modulating localization and classification for harmonized object detection.

Operators (C++/CUDA, `torch.ops.mlc_ext.*`) and the method built on them. See README.md for the few lines that put
mutual labeling and IoU rescoring into a training loop.
"""

from . import _program_start  # isort: skip  # noqa: F401  (first: importing torch takes seconds)
from pathlib import Path as _Path

from . import _load
from ._version import __version__

_C, _C_cuda = _load.load()

_TREE = _Path(__file__).resolve().parents[1]
if (_TREE / "detectors" / "__init__.py").is_file() and (_TREE / "csrc").is_dir():
    __path__.append(str(_TREE))  # a source tree that is not installed: `mlc_ext.detectors` is the folder detectors/

from .ops import (  # noqa: E402  (the operators must be registered first)
    MatchedBoxes,
    MutualLabels,
    NmsResult,
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
)

__all__ = [
    "MatchedBoxes",
    "MutualLabels",
    "NmsResult",
    "__version__",
    "batched_iou_nms",
    "batched_rescored_nms",
    "box_iou",
    "build_info",
    "iou_loss",
    "iou_nms",
    "match_boxes",
    "mutual_labels",
    "paired_box_iou",
    "rescored_nms",
    "segmented_otsu",
    "segmented_spearman",
    "sigmoid_focal_loss",
]


def build_info() -> dict[str, object]:
    """What was built and what runs: versions, compiler, flags, whether the CUDA kernels are there."""
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
