"""The classification losses of ``model.cls_loss``."""

from __future__ import annotations

from torch import Tensor

from mlc_ext import TaskTargets, quality_focal_loss, sigmoid_focal_loss, varifocal_loss


def classification_loss(kind: str, logits: Tensor, task: TaskTargets) -> Tensor:
    """Scalar sum for logits [N, C] and the batch's N priors.

    Args:
        kind: "focal"; "quality_focal" (GFL) or "varifocal" (VarifocalNet), whose target for a positive is its
            ``task.quality``.
    """
    if kind == "focal":
        return sigmoid_focal_loss(logits, task.cls_labels, task.cls_weights)
    if task.quality is None:
        raise ValueError(f"classification_loss: {kind!r} needs task.quality")
    loss = {"quality_focal": quality_focal_loss, "varifocal": varifocal_loss}[kind]
    return loss(logits, task.cls_labels, task.quality, task.cls_weights)
