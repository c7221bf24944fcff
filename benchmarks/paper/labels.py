"""For analysis: mutual labels for one task alone, the baseline's for the other."""

from __future__ import annotations

import dataclasses

from mlc_ext.detectors.models.dense_detector import DenseDetector, Labeled


def label_one_task(model: DenseDetector, task: str) -> None:
    """Where ``model`` would label mutually, it does so for ``task``, "cls" or "loc", alone."""
    label = model.label

    def one_task(outputs, feature_sizes, targets, *, mutual: bool | None = None) -> Labeled:
        found = label(outputs, feature_sizes, targets, mutual=mutual)
        if not (model.mutual if mutual is None else mutual):
            return found
        ours, theirs = found.task, label(outputs, feature_sizes, targets, mutual=False).task
        if task == "cls":
            changes = {"loc_weights": theirs.loc_weights, "loc_positive": theirs.loc_positive}
        else:
            changes = {"cls_labels": theirs.cls_labels, "cls_weights": theirs.cls_weights}
        mixed = dataclasses.replace(ours, **changes)
        mixed = dataclasses.replace(mixed, iou_positive=(mixed.cls_labels > 0) | mixed.loc_positive)
        return found._replace(task=mixed)

    model.label = one_task
