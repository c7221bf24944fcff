"""The label assigners against MMDetection 3.3.0's own code, on the same tensors of bm_assigners.py.

It needs MMDetection (`make test-integrations` makes the environment; PAA needs scikit-learn too). MAL is not in
MMDetection, and AutoAssign's assignment is not apart from its losses there. Milliseconds are CPU time of one thread, or
with --threads 2 wall time; the minimum of the rounds, ours and theirs in turn.

usage: mmdet_assigners.py [--rounds 10] [--threads 1] [--quick]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from bm_assigners import CLASSES, SIZES, STRIDES, Inputs
from torch import Tensor

import mlc_ext.integrations.mmcv_lite  # noqa: F401  (before MMDetection)
from mlc_ext import Assignment, ATSSAssigner, PAAAssigner, SimOTAAssigner, TaskAlignedAssigner

# isort: split
from mmdet.models.task_modules import assigners as mmdet_assigners
from mmdet.registry import MODELS
from mmengine.structures import InstanceData


class Theirs:
    """MMDetection's assigners of one batch; each returns [A] gt indices of each image, 0 for none."""

    def __init__(self, batch: Inputs) -> None:
        self.levels, self.anchors = batch.anchors, torch.cat(batch.anchors)
        points, strides = torch.cat(batch.points), batch.strides[:, None]
        self.sizes = [len(level) for level in batch.anchors]
        self.gts = [InstanceData(bboxes=t["boxes"], labels=t["labels"]) for t in batch.targets]
        boxes, scores = batch.predictions.boxes, batch.predictions.cls_logits.sigmoid()
        self.of_anchors = [
            InstanceData(priors=self.anchors, bboxes=b, scores=s) for b, s in zip(boxes, scores, strict=True)
        ]
        grid = torch.cat([points, strides, strides], 1)
        self.of_points = [InstanceData(priors=grid, bboxes=b, scores=s) for b, s in zip(boxes, scores, strict=True)]
        self.logits = list(batch.predictions.cls_logits)
        self.atss_assigner = mmdet_assigners.ATSSAssigner(topk=9)
        self.task_aligned_assigner = mmdet_assigners.TaskAlignedAssigner(topk=13)
        self.sim_ota_assigner = mmdet_assigners.SimOTAAssigner(center_radius=2.5)
        self.paa_head = MODELS.build(
            {
                "type": "PAAHead",
                "num_classes": CLASSES,
                "in_channels": 8,
                "feat_channels": 8,
                "stacked_convs": 1,
                "reg_decoded_bbox": True,
                "norm_cfg": None,
                "anchor_generator": {
                    "type": "AnchorGenerator", "ratios": [1.0], "scales": [8], "strides": STRIDES,
                },
                "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0},
                "loss_bbox": {"type": "GIoULoss", "loss_weight": 1.3},
                "train_cfg": {
                    "assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.1, "neg_iou_thr": 0.1, "min_pos_iou": 0},
                    "allowed_border": -1,
                    "pos_weight": -1,
                },
            }
        )  # fmt: skip
        self.deltas = [self.paa_head.bbox_coder.encode(self.anchors, b) for b in boxes]

    def atss(self) -> list[Tensor]:
        images = zip(self.of_anchors, self.gts, strict=True)
        return [self.atss_assigner.assign(found, self.sizes, gts).gt_inds for found, gts in images]

    def task_aligned(self) -> list[Tensor]:
        images = zip(self.of_anchors, self.gts, strict=True)
        return [self.task_aligned_assigner.assign(found, gts).gt_inds for found, gts in images]

    def sim_ota(self) -> list[Tensor]:
        images = zip(self.of_points, self.gts, strict=True)
        return [self.sim_ota_assigner.assign(found, gts).gt_inds for found, gts in images]

    def paa(self) -> list[Tensor]:
        head, count = self.paa_head, len(self.gts)
        anchors = [list(self.levels) for _ in range(count)]
        flags = [[torch.ones(size, dtype=torch.bool) for size in self.sizes] for _ in range(count)]
        metas = [{"img_shape": (800, 1216), "pad_shape": (800, 1216)}] * count
        labels, weights, targets, box_weights, positive, gts = head.get_targets(anchors, flags, self.gts, metas, None)
        found = []
        for i in range(count):
            image = (anchors[i], self.logits[i], self.deltas[i], labels[i], weights[i], targets[i], box_weights[i])
            (losses,) = head.get_pos_loss(*image, positive[i])
            after = head.paa_reassign(losses, labels[i], weights[i], box_weights[i], positive[i], gts[i], anchors[i])[0]
            gt = torch.zeros(len(self.anchors), dtype=torch.int64)
            gt[positive[i]] = gts[i] + 1
            found.append(torch.where(after < CLASSES, gt, 0))
        return found


def differing(found: Assignment, wanted: list[Tensor], counts: list[int]) -> tuple[int, int]:
    """(priors that are assigned otherwise, positives of ours)"""
    gt = torch.where(found.labels == 1, found.candidate_gt, -1)
    offset, parts = 0, []
    for part, count in zip(wanted, counts, strict=True):
        parts.append(torch.where(part > 0, part - 1 + offset, -1))
        offset += count
    return int((gt != torch.cat(parts)).sum()), int((gt >= 0).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="the small batch alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.thread_time if options.threads == 1 else time.perf_counter

    def timed(call: Callable[[], object]) -> float:
        start = clock()
        call()
        return clock() - start

    print("| batch | assigner | ours, ms | MMDetection, ms | ratio | differing |\n|---|---|--:|--:|--:|--:|")
    for size in SIZES[:1] if options.quick else SIZES:
        batch = Inputs(*size, "cpu")
        theirs, counts = Theirs(batch), [len(t["boxes"]) for t in batch.targets]
        for name, assigner, priors, their in (
            ("ATSS", ATSSAssigner(), batch.anchors, theirs.atss),
            ("TaskAligned", TaskAlignedAssigner(first_label=0), batch.anchors, theirs.task_aligned),
            ("SimOTA", SimOTAAssigner(first_label=0), batch.points, theirs.sim_ota),
            ("PAA", PAAAssigner(first_label=0), batch.anchors, theirs.paa),
        ):

            def ours(assigner=assigner, priors=priors) -> Assignment:
                return assigner(priors, batch.targets, batch.predictions)  # noqa: B023  # called within the round

            with torch.no_grad():
                wrong, positives = differing(ours(), their(), counts)
                rounds = [(timed(ours), timed(their)) for _ in range(options.rounds)]
            mine, other = (1000 * min(column) for column in zip(*rounds, strict=True))
            print(
                f"| {batch.name} | {name} | {mine:.1f} | {other:.1f} | {other / mine:.1f}x | {wrong} of {positives} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
