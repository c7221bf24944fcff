"""Where mutual labeling and the baseline disagree, and where its two tasks agree: counted over some images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..models.dense_detector import DenseDetector
from ..models.targets import Target, prepare_targets

_SUMS = (
    "candidates",
    "gts",
    "agreed",
    "united",
    *(f"{name}_{task}" for task in ("cls", "loc") for name in (
        "positive", "gained", "lost", "iou_positive", "iou_gained", "iou_lost"
    )),
    "baseline",
    "iou_baseline",
)  # fmt: skip


@torch.no_grad()
def label_statistics(
    model: DenseDetector, batches: Iterable[tuple[Sequence[Tensor], Sequence[Target]]], device: torch.device
) -> dict[str, float]:
    """Labels both ways for the predictions the model makes in evaluation mode, whichever way it is being trained.

    Over all candidate priors (J^k of every gt), for each task t in cls, loc; ``gained`` are positives of mutual
    labeling that the baseline does not have, ``lost`` those it has alone:

    - ``labels_flipped_t``: gained + lost, as a share of the candidates;
    - ``labels_per_gt_t``, ``labels_per_gt_baseline``: positives a gt;
    - ``labels_iou_t``, ``labels_iou_baseline``, ``labels_iou_gained_t``, ``labels_iou_lost_t``: mean IoU of those
      priors' decoded boxes with their gt;
    - ``labels_consensus``: \\|A+cls n A+loc\\| / \\|A+cls u A+loc\\|, which grows in training according to the paper.

    NaN where there is nothing to divide by. The model's mode is left as it was.
    """
    was_training = model.training
    model.eval()
    sums = dict.fromkeys(_SUMS, torch.zeros((), dtype=torch.float64, device=device))
    for images, targets in batches:
        outputs, feature_sizes, _ = model.head_outputs([image.to(device, non_blocking=True) for image in images])
        objects = prepare_targets(targets, len(images), device, model.num_classes)
        for name, value in _count(model, outputs, feature_sizes, objects).items():
            sums[name] = sums[name] + value
    model.train(was_training)
    return _ratios({name: value.item() for name, value in sums.items()})


def _count(model: DenseDetector, outputs, feature_sizes, objects: list[Target]) -> dict[str, Tensor]:
    _, _, assignment, task = model.label(outputs, feature_sizes, objects, mutual=True)
    candidate = assignment.candidate_gt >= 0
    before, ious = task.baseline_positive, task.ious.double()
    positives = {"cls": task.cls_labels > 0, "loc": task.loc_positive}
    counts = {
        "candidates": candidate.sum(),
        "gts": torch.tensor(sum(len(target["boxes"]) for target in objects), device=ious.device),
        "agreed": (positives["cls"] & positives["loc"]).sum(),
        "united": (positives["cls"] | positives["loc"]).sum(),
        "baseline": before.sum(),
        "iou_baseline": ious[before].sum(),
    }
    for name, now in positives.items():
        for kind, chosen in (("positive", now), ("gained", now & ~before), ("lost", before & ~now)):
            counts[f"{kind}_{name}"] = chosen.sum()
            counts[f"iou_{kind}_{name}"] = ious[chosen].sum()
    return counts


def _ratios(sums: dict[str, float]) -> dict[str, float]:
    def ratio(above: float, below: float) -> float:
        return above / below if below else float("nan")

    found = {
        "labels_consensus": ratio(sums["agreed"], sums["united"]),
        "labels_per_gt_baseline": ratio(sums["baseline"], sums["gts"]),
        "labels_iou_baseline": ratio(sums["iou_baseline"], sums["baseline"]),
    }
    for task in ("cls", "loc"):
        found[f"labels_flipped_{task}"] = ratio(sums[f"gained_{task}"] + sums[f"lost_{task}"], sums["candidates"])
        found[f"labels_per_gt_{task}"] = ratio(sums[f"positive_{task}"], sums["gts"])
        found[f"labels_iou_{task}"] = ratio(sums[f"iou_positive_{task}"], sums[f"positive_{task}"])
        for kind in ("gained", "lost"):
            found[f"labels_iou_{kind}_{task}"] = ratio(sums[f"iou_{kind}_{task}"], sums[f"{kind}_{task}"])
    return found
