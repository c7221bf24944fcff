"""MMDetection's MaxIoUAssigner without its matrix of IoUs."""

from typing import Any

import torch
from mmdet.models.task_modules.assigners import AssignResult, BboxOverlaps2D, MaxIoUAssigner
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from ..._transfer import offsets_of
from ...ops import MatchedBoxes, match_boxes


@TASK_UTILS.register_module()
class MLCMaxIoUAssigner(MaxIoUAssigner):  # type: ignore[misc]
    """MaxIoUAssigner whose memory does not grow with the number of gts times that of priors (mmdetection#188, #3863).

    The result is MaxIoUAssigner's, with one exception: a gt whose IoU with every prior is 0 matches nothing, where with
    ``min_pos_iou=0`` MMDetection makes every prior of IoU 0 its positive (mmdetection#8289).

    Args: as MaxIoUAssigner. ``gpu_assign_thr`` is ignored.

    Raises:
        ValueError: a setting that needs the matrix: a tuple as ``neg_iou_thr``, ``gt_max_assign_all=False``,
        ``ignore_wrt_candidates=False``, ``perm_repeat_gt_cfg``, or another ``iou_calculator``; or the thresholds are
        not 0 <= neg_iou_thr <= pos_iou_thr <= 1, or ``min_pos_iou`` is not in [0, 1].
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        needs_matrix = {
            "neg_iou_thr": isinstance(self.neg_iou_thr, (tuple, list)),
            "gt_max_assign_all": not self.gt_max_assign_all,
            "ignore_wrt_candidates": not self.ignore_wrt_candidates,
            "perm_repeat_gt_cfg": self.perm_repeat_gt_cfg is not None,
            "iou_calculator": not _is_plain(self.iou_calculator),
        }
        if any(needs_matrix.values()):
            names = ", ".join(name for name, found in needs_matrix.items() if found)
            raise ValueError(f"MLCMaxIoUAssigner: this value of {names} needs MMDetection's MaxIoUAssigner")
        none = torch.zeros(0, 4)
        try:
            self._match(none, none)  # the operator checks the thresholds
        except ValueError as error:
            thresholds = ("pos_iou_thr", "neg_iou_thr", "min_pos_iou")
            given = ", ".join(f"{name}={getattr(self, name)}" for name in thresholds)
            raise ValueError(f"MLCMaxIoUAssigner: {given}: {error}") from None

    def assign(
        self, pred_instances: Any, gt_instances: Any, gt_instances_ignore: Any = None, **kwargs: Any
    ) -> AssignResult:
        """AssignResult of A priors: ``gt_inds`` [A] int64 (gt k is k + 1, 0 negative, -1 ignored), ``max_overlaps``
        [A], ``labels`` [A] int64 (-1 for priors that are not positive)."""
        priors = get_box_tensor(pred_instances.priors).float()
        gt_boxes = get_box_tensor(gt_instances.bboxes).to(priors)
        ignored = self._ignored(priors, gt_instances_ignore)
        # an empty box far away has IoU 0 with every gt
        priors = torch.where(ignored[:, None], torch.full_like(priors, -1e6), priors)
        found = self._match(priors, gt_boxes)
        matched, gt, overlaps = (x[0] for x in (found.labels, found.candidate_gt, found.ious))
        gt_inds = torch.where(matched > 0, gt + 1, matched.long())
        if len(gt_boxes) > 0:
            gt_inds, overlaps = torch.where(ignored, -1, gt_inds), torch.where(ignored, -1.0, overlaps)
        labels = torch.full_like(gt_inds, -1)
        positive = gt_inds > 0
        labels[positive] = gt_instances.labels[gt_inds[positive] - 1]
        return AssignResult(len(gt_boxes), gt_inds, overlaps, labels)

    def _match(self, priors: Tensor, gt_boxes: Tensor) -> MatchedBoxes:
        return match_boxes(
            priors,
            gt_boxes,
            offsets_of([len(gt_boxes)], priors.device),
            high=self.pos_iou_thr,
            low=self.neg_iou_thr,
            forced="forcing" if self.match_low_quality else None,
            min_forced_iou=self.min_pos_iou,
        )

    def _ignored(self, priors: Tensor, instances: Any) -> Tensor:
        """[A] bool: more than ``ignore_iof_thr`` of the prior's area lies in one of the ignored boxes."""
        ignored = torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
        if self.ignore_iof_thr <= 0 or instances is None:
            return ignored
        area = (priors[:, 2:] - priors[:, :2]).prod(1).clamp(min=1e-6)
        for box in get_box_tensor(instances.bboxes).to(priors):
            inside = (torch.minimum(priors[:, 2:], box[2:]) - torch.maximum(priors[:, :2], box[:2])).clamp(min=0)
            ignored |= inside.prod(1) / area > self.ignore_iof_thr
        return ignored


def _is_plain(calculator: Any) -> bool:
    return type(calculator) is BboxOverlaps2D and calculator.scale == 1.0 and calculator.dtype is None
