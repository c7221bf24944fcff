"""One file an operator: its public function, fake (shapes without data), autograd and autocast."""

from .box_iou import box_iou
from .mutual_labels import MutualLabels, mutual_labels
from .paired_box_iou import paired_box_iou
from .rescored_nms import NmsResult, batched_rescored_nms, rescored_nms
from .segmented_otsu import segmented_otsu

__all__ = [
    "MutualLabels",
    "NmsResult",
    "batched_rescored_nms",
    "box_iou",
    "mutual_labels",
    "paired_box_iou",
    "rescored_nms",
    "segmented_otsu",
]
