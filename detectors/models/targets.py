"""The targets of a batch: their form, and what is refused before a training step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Target = dict[str, Tensor]


def prepare_targets(
    targets: Sequence[Target], num_images: int, device: torch.device, num_classes: int | None = None
) -> list[Target]:
    """Checked targets on the device, crowd boxes apart: dicts of ``boxes``, ``labels``, ``crowd`` [C, 4].

    Raises ValueError or TypeError naming the image for what cannot be trained on. The values are looked at where that
    costs no synchronization, that is on the CPU, where a data loader leaves them.
    """
    if len(targets) != num_images:
        raise ValueError(f"targets: {len(targets)} for {num_images} images")
    prepared = []
    for i, target in enumerate(targets):
        boxes, labels = target["boxes"], target["labels"]
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(f"targets[{i}]: boxes must have shape [G, 4], got {tuple(boxes.shape)}")
        if labels.shape != boxes.shape[:1]:
            raise ValueError(f"targets[{i}]: {tuple(labels.shape)} labels for {boxes.shape[0]} boxes")
        if labels.dtype != torch.int64:
            raise TypeError(f"targets[{i}]: labels must be int64, got {labels.dtype}")
        _check_values(i, boxes, labels, num_classes)
        boxes = boxes.float()
        crowd = boxes[:0]
        iscrowd = target.get("iscrowd")
        if iscrowd is not None:
            iscrowd = iscrowd.bool()
            boxes, labels, crowd = boxes[~iscrowd], labels[~iscrowd], boxes[iscrowd]
        checked = {"boxes": boxes, "labels": labels, "crowd": crowd}
        prepared.append({key: value.to(device, non_blocking=True) for key, value in checked.items()})
    return prepared


def _check_values(i: int, boxes: Tensor, labels: Tensor, num_classes: int | None) -> None:
    if boxes.device.type == "cpu":
        wrong = ~boxes.isfinite().all(1) | (boxes[:, 2:] < boxes[:, :2]).any(1)
        if wrong.any():
            shown = boxes[wrong][0].tolist()
            raise ValueError(f"targets[{i}]: boxes must be finite, with x1 <= x2 and y1 <= y2, got {shown}")
    if labels.device.type == "cpu" and num_classes is not None:
        wrong = labels[(labels < 1) | (labels > num_classes)]
        if wrong.numel() > 0:
            raise ValueError(f"targets[{i}]: labels must be in 1..{num_classes}, got {wrong[0].item()}")
