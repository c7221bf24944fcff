"""One file per operator: its public function, fake kernel (shapes without data), autograd and autocast."""

from .box_iou import box_iou
from .iou_loss import iou_loss
from .iou_nms import batched_iou_nms, iou_nms
from .match_boxes import MatchedBoxes, match_boxes
from .mutual_labels import MutualLabels, mutual_labels
from .paired_box_iou import paired_box_iou
from .rescored_nms import NmsResult, batched_rescored_nms, rescored_nms
from .segmented_otsu import segmented_otsu
from .segmented_spearman import segmented_spearman
from .sigmoid_focal_loss import sigmoid_focal_loss
from .topk_alignment import TopkAlignment, topk_alignment

__all__ = [
    "MatchedBoxes",
    "MutualLabels",
    "NmsResult",
    "TopkAlignment",
    "batched_iou_nms",
    "batched_rescored_nms",
    "box_iou",
    "iou_loss",
    "iou_nms",
    "match_boxes",
    "mutual_labels",
    "paired_box_iou",
    "rescored_nms",
    "segmented_otsu",
    "segmented_spearman",
    "sigmoid_focal_loss",
    "topk_alignment",
]
