"""FCOS: its centerness layer predicts the IoU from ``start_epoch`` on, so that checkpoints stay MMDetection's."""

from typing import Any

import torch
from mmdet.models.dense_heads import FCOSHead
from mmdet.registry import MODELS
from mmdet.utils import reduce_mean
from torch import Tensor

from ...assigners import FCOSAssigner
from ...mutual_labeling import TaskTargets
from .._gradient import decoding
from .head import MLCHead, flat, gts_of


@MODELS.register_module()
class MLCFCOSHead(MLCHead, FCOSHead):  # type: ignore[misc]
    """FCOSHead with mutual labeling and IoU rescoring.

    Until ``mlc.start_epoch`` the losses are FCOSHead's. With ``mlc.iur``, from ``start_epoch`` (or
    ``mlc.iur_start_epoch``) on, ``conv_centerness`` is trained on the IoU, and the box loss is not weighted by the
    centerness anymore (the paper's FCOS-). The keys of the state_dict are FCOSHead's.

    Args: as FCOSHead, and those of :class:`MLCHead`.
    """

    detector = "fcos"

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        centernesses: list[Tensor],
        batch_gt_instances: list[Any],
        batch_img_metas: list[dict[str, Any]],
        batch_gt_instances_ignore: list[Any] | None = None,
    ) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_bbox`` and ``loss_iou`` (or ``loss_centerness``, where the IoU is not trained)."""
        self.state.warn_without_epoch()
        if not self.active:
            own = super().loss_by_feat
            return own(  # type: ignore[no-any-return]
                cls_scores, bbox_preds, centernesses, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
            )
        config = self.state.config
        sizes = [x.shape[-2:] for x in cls_scores]
        levels = self.prior_generator.grid_priors(sizes, dtype=torch.float32, device=cls_scores[0].device)
        points = torch.cat(levels).repeat(len(batch_gt_instances), 1)
        gt_boxes, gt_labels = gts_of(batch_gt_instances)
        logits = flat(cls_scores, self.cls_out_channels)
        distances = flat(self._in_pixels(bbox_preds), 4)
        quality = flat(centernesses, 1).squeeze(1)
        with decoding(config):
            boxes = self.bbox_coder.decode(points, distances)
        assigner = FCOSAssigner(
            self.strides,
            self.regress_ranges,
            self.center_sample_radius if self.center_sampling else None,
            candidates=config.fcos_candidates,
        )
        assignment = assigner(levels, [{"boxes": boxes} for boxes in gt_boxes])
        task = self.targets(assignment, logits, boxes, torch.cat(gt_boxes), gt_labels)
        num_cls = reduce_mean(task.num_cls_positive.float()).clamp(min=1)
        losses = {"loss_cls": self.loss_cls(logits, self.cls_targets(task), task.cls_weights, avg_factor=num_cls)}
        losses |= self._box_losses(task, points, distances, quality)
        added = self.added_losses(task, quality)
        if not self.state.rescoring:
            added.pop("loss_iou", None)  # loss_centerness trains the layer
        return losses | added

    def _in_pixels(self, bbox_preds: list[Tensor]) -> list[Tensor]:
        if not self.norm_on_bbox:
            return [x.float() for x in bbox_preds]
        return [x.float() * stride for x, stride in zip(bbox_preds, self.strides, strict=True)]

    def _box_losses(self, task: TaskTargets, points: Tensor, distances: Tensor, quality: Tensor) -> dict[str, Tensor]:
        """``loss_bbox``; where the IoU is not trained, weighted by the centerness, and ``loss_centerness``."""
        positive = task.loc_positive.nonzero().squeeze(1)
        points, distances, gt_boxes = points[positive], distances[positive], task.matched_boxes[positive]
        weights, num_loc = task.loc_weights[positive], reduce_mean(task.num_loc_positive.float()).clamp(min=1)
        losses, divisor = {}, num_loc
        if not self.state.rescoring:
            sides = torch.cat([points - gt_boxes[:, :2], gt_boxes[:, 2:] - points], dim=1)
            centerness = self.centerness_target(sides)
            weights, divisor = weights * centerness, reduce_mean(centerness.sum()).clamp(min=1e-6)
            losses["loss_centerness"] = self.loss_centerness(quality[positive], centerness, avg_factor=num_loc)
        if len(positive) == 0:
            return {name: quality[positive].sum() for name in losses} | {"loss_bbox": distances.sum()}
        boxes = self.bbox_coder.decode(points, distances)
        return losses | {"loss_bbox": self.loss_bbox(boxes, gt_boxes, weight=weights, avg_factor=divisor)}
