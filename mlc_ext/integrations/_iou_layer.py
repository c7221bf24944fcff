"""The layer that predicts the IoU, and the ranking by it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class IoULayer(nn.Conv2d):
    """The convolution that predicts the IoU. It has a flag in its state: whether it has been trained.

    A checkpoint of the plain detector does not have its keys. It loads, with ``strict=True`` too, and sets the layer to
    a new initial state, in which detections are ranked without it.
    """

    trained: Tensor

    def __init__(self, beside: nn.Conv2d) -> None:
        """One output per anchor, as ``beside``, the box layer on the same tower, has four."""
        super().__init__(
            beside.in_channels,
            beside.out_channels // 4,
            beside.kernel_size,  # type: ignore[arg-type]
            padding=beside.padding,  # type: ignore[arg-type]
            device=beside.weight.device,
            dtype=beside.weight.dtype,
        )
        # floating point, so that averages of models and their buffers are possible
        self.register_buffer("trained", torch.zeros((), device=beside.weight.device))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.01)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if any(f"{prefix}{name}" in state_dict for name in self.state_dict()):
            super()._load_from_state_dict(state_dict, prefix, *rest)
        else:
            with torch.no_grad():
                self.reset_parameters()
                self.trained.zero_()


def rescored_logits(logits: Tensor, iou_logits: Tensor) -> Tensor:
    """The logits of score x IoU, float32."""
    log_product = F.logsigmoid(logits.float()) + F.logsigmoid(iou_logits.float())
    return log_product - torch.log(-torch.expm1(log_product))
