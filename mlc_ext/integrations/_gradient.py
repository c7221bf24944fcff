"""Whether the decoded boxes need a gradient."""

from typing import Any

import torch

from ..config import MLCConfig


def decoding(config: MLCConfig) -> Any:
    """The context in which boxes are decoded for the method: with gradients only where one of its losses has a gradient
    through the IoU of the boxes."""
    needed = config.alignment > 0 or (config.iur and not config.detach_iou_target)
    return torch.set_grad_enabled(torch.is_grad_enabled() and needed)
