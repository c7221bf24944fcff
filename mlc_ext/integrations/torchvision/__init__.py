"""The method in torchvision's detectors: FCOS, RetinaNet and the RPN of Faster, Mask and Keypoint R-CNN.

Example::

    model = torchvision.models.detection.fcos_resnet50_fpn(num_classes=91)
    apply_mlc(model)  # before the optimizer is built and before DistributedDataParallel
    for epoch in range(19):
        set_epoch(model, epoch)
        train_one_epoch(model, ...)  # as before

It needs torchvision >= 0.26, which ``mlc_ext`` does not.
"""

from .apply import apply_mlc, set_epoch
from .matcher import BoxPair, Matcher, use_matcher
from .nms import batched_nms
from .raw_predictions import raw_predictions

__all__ = ["BoxPair", "Matcher", "apply_mlc", "batched_nms", "raw_predictions", "set_epoch", "use_matcher"]
