"""The gt of which an ignored anchor is a candidate; matchers do not return it."""

import torch
from torch import Tensor

from .._transfer import offsets_of
from ..ops import match_boxes


def nearest_gts(priors: Tensor, gt_boxes: list[Tensor], low: float = 0.0) -> Tensor:
    """[B, A] int64: the gt of each image, counted from 0, with which a prior has its largest IoU; -1 if that is 0 or
    below ``low``.

    Args:
        priors: [A, 4], the same in every image. gt_boxes: [G, 4] of each image.
    """
    offsets = offsets_of([len(boxes) for boxes in gt_boxes], priors.device)
    boxes = torch.cat(gt_boxes).to(priors.dtype)
    best = match_boxes(priors, boxes, offsets, high=low, low=low, forced=None).candidate_gt
    return torch.where(best >= 0, best - offsets[:-1, None], -1)
