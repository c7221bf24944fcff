"""batched_nms: torchvision.ops.batched_nms on the operator of this library."""

import torch
from torch import Tensor


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression within each category, in the signature of ``torchvision.ops.batched_nms``.

    Boxes are compared where they are: coordinates are not shifted to keep categories apart, which rounds them
    (vision#8713), and no loop runs over the categories. Equal scores keep the lower index first, on CPU and CUDA.
    IoUs are computed in float32 for half inputs. TorchScript can compile it.

    The result is torchvision's, with one exception: a box of score -inf is never kept.

    Every detector of torchvision uses it after ``torchvision.ops.boxes.batched_nms = batched_nms``.

    Args:
        boxes: [N, 4] floating point xyxy.
        scores: [N] floating point.
        idxs: [N] integer categories.
        iou_threshold: in [0, 1]; a box is dropped if its IoU with an earlier kept one of its category is above it.

    Returns:
        [n] int64 indices of the kept boxes, highest score first.

    Raises:
        RuntimeError: shapes disagree, the threshold is out of range, or (CPU only) an input is NaN.
    """
    boxes = boxes.detach()
    scores = scores.detach()
    # TorchScript cannot call mlc_ext.rescored_nms, a wrapper of this operator
    dtype = torch.float64 if boxes.dtype == torch.float64 or scores.dtype == torch.float64 else torch.float32
    kept: Tensor = torch.ops.mlc_ext.rescored_nms(
        boxes.to(dtype), scores.to(dtype), None, idxs.to(torch.int64), iou_threshold
    )
    return kept
