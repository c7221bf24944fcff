"""The layer that predicts the IoU, and the ranking by it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class IoULayer(nn.Conv2d):
    """The convolution that predicts the IoU. It has a flag in its state: whether it has been trained.

    A checkpoint of the plain detector does not have its keys. It loads, with ``strict=True`` too, and reinitializes the
    layer, which then does not affect the ranking until trained.
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

    def ranking_logits(self, iou_logits: Tensor) -> Tensor:
        """The logits of the factor by which detections are ranked, float32: the IoU's, or infinity, the logit of 1,
        while the layer has not been trained. TorchScript can compile it."""
        logits = iou_logits.float()
        return torch.where(self.trained > 0, logits, torch.full_like(logits, float("inf")))

    @torch.jit.unused
    def mark_trained(self) -> None:
        """From now on the layer affects the ranking."""
        self.trained.fill_(1.0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if any(f"{prefix}{name}" in state_dict for name in self.state_dict()):
            super()._load_from_state_dict(state_dict, prefix, *rest)
        else:
            with torch.no_grad():
                self.reset_parameters()
                self.trained.zero_()


def rescored_logits(logits: Tensor, factors: Tensor) -> Tensor:
    """The logits of score x factor, float32; ``logits`` themselves where the factor's logit is infinite.

    TorchScript can compile it.
    """
    log_product = F.logsigmoid(logits.float()) + F.logsigmoid(factors.float())
    rescored = log_product - torch.log(-torch.expm1(log_product))
    return torch.where(torch.isposinf(factors), logits.float(), rescored)
