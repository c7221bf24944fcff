"""Whether the decoded boxes need a gradient."""

from ..config import MLCConfig


def gradient_through_boxes(config: MLCConfig) -> bool:
    """Whether a loss of the method has a gradient through the IoU of the decoded boxes."""
    return config.alignment > 0 or (config.iur and not config.detach_iou_target)
