"""What RetinaNet's and RPN's heads share: the assignment by the config's own assigner, and the losses."""

from typing import Any

import torch
from mmdet.models.task_modules.assigners import MaxIoUAssigner
from mmdet.models.task_modules.prior_generators import anchor_inside_flags
from mmdet.models.task_modules.samplers import PseudoSampler, RandomSampler
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor

from ...assignment import Assignment
from ...losses import count_per_image
from ...mutual_labeling import TaskTargets
from ...sampling import sample_tasks
from .._candidates import nearest_gts
from .._gradient import decoding
from .._iou_layer import IoULayer
from .head import MLCHead, flat, gts_of


class MLCAnchorHead(MLCHead):
    """Base of the anchor-based heads. With ``mlc.iur`` they have one layer more, ``conv_iou``.

    The config's assigner, box coder and losses stay in use. MaxIoUAssigner's ignored anchors are the originally ignored
    candidates of mutual labeling, without those in ignored boxes; with any other assigner, only the positives are
    candidates.

    Raises:
        ValueError: ``mlc.candidates`` is "own_levels", or the sampler adds gts or bounds the negatives.
        TypeError: the sampler is neither PseudoSampler nor RandomSampler.
    """

    conv_iou: IoULayer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.state.config.candidates == "own_levels":
            raise ValueError(f"{type(self).__name__}: candidates 'own_levels' is for FCOS")
        sampler = getattr(self, "sampler", None)  # absent without train_cfg
        if type(sampler) not in (PseudoSampler, RandomSampler, type(None)):
            raise TypeError(f"{type(self).__name__}: sampler must be a PseudoSampler or RandomSampler, got {sampler}")
        if getattr(sampler, "add_gt_as_proposals", False) or getattr(sampler, "neg_pos_ub", -1) >= 0:
            raise ValueError(f"{type(self).__name__}: the sampler needs add_gt_as_proposals=False and neg_pos_ub=-1")

    def factors(self, score_factors: list[Tensor]) -> list[Tensor]:
        """Those of ``conv_iou``; before it has been trained the factor is sigmoid(inf) = 1."""
        return [self.conv_iou.ranking_logits(level) for level in score_factors]

    def loss_by_feat(
        self, cls_scores: list[Tensor], bbox_preds: list[Tensor], *rest: Any, **named: Any
    ) -> dict[str, Tensor]:
        """MMDetection's losses, and the method's ``loss_iou``.

        Args:
            cls_scores: [B, A * C, H, W] of each level.
            bbox_preds: [B, A * 4, H, W] of each level.
            rest, named: with ``mlc.iur`` first ``ious``, the IoU's logits, [B, A, H, W] of each level. Then
                MMDetection's ``batch_gt_instances``, ``batch_img_metas`` and, optional, ``batch_gt_instances_ignore``.
        """
        self.state.warn_without_epoch()
        ious: list[Tensor] | None = None
        if self.state.config.iur:
            ious, *rest = rest if rest else [named.pop("ious")]  # type: ignore[assignment]
        if self.active:
            return self._losses(cls_scores, bbox_preds, ious, *rest, **named)
        own = super().loss_by_feat  # type: ignore[misc]
        losses: dict[str, Tensor] = own(cls_scores, bbox_preds, *rest, **named)
        if ious is not None:  # every rank's graph has the layer
            losses["loss_iou"] = torch.stack([level.float().sum() for level in ious]).sum() * 0
        return losses

    def _losses(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        ious: list[Tensor] | None,
        batch_gt_instances: list[Any],
        batch_img_metas: list[dict[str, Any]],
        batch_gt_instances_ignore: list[Any] | None = None,
    ) -> dict[str, Tensor]:
        head: Any = self  # with the attributes of MMDetection's AnchorHead
        config, num_images = self.state.config, len(batch_gt_instances)
        sizes = [x.shape[-2:] for x in cls_scores]
        anchors, flags = head.get_anchors(sizes, batch_img_metas, device=cls_scores[0].device)
        priors = torch.cat([get_box_tensor(level) for level in anchors[0]]).float()
        inside = [
            anchor_inside_flags(priors, torch.cat(valid), meta["img_shape"][:2], head.train_cfg["allowed_border"])
            for valid, meta in zip(flags, batch_img_metas, strict=True)
        ]
        ignored = batch_gt_instances_ignore or [None] * num_images
        found = [self._matched(priors, *image) for image in zip(inside, batch_gt_instances, ignored, strict=True)]
        gt_boxes, gt_labels = gts_of(batch_gt_instances)
        logits = flat(cls_scores, head.cls_out_channels)
        deltas = flat(bbox_preds, 4).float()  # half precision would round the boxes
        all_priors = priors.repeat(num_images, 1)
        with decoding(config):
            boxes = get_box_tensor(head.bbox_coder.decode(all_priors, deltas))
        gt_inds, eligible, samples = (list(column) for column in zip(*found, strict=True))
        assignment = self._assignment(gt_inds, eligible, priors, gt_boxes)
        task = self.targets(assignment, logits, boxes, torch.cat(gt_boxes), gt_labels)
        task, cls_divisor, loc_divisor = self._sampled(task, num_images, samples)
        cls_weights = task.cls_weights
        if head.train_cfg["pos_weight"] > 0:
            cls_weights = torch.where(task.cls_labels > 0, cls_weights * head.train_cfg["pos_weight"], cls_weights)
        positive = (task.loc_weights > 0).nonzero().squeeze(1)
        prediction, target = deltas[positive], task.matched_boxes[positive]
        if head.reg_decoded_bbox:
            prediction = get_box_tensor(head.bbox_coder.decode(all_priors[positive], prediction))
        else:
            target = head.bbox_coder.encode(all_priors[positive], target)
        box_weights = task.loc_weights[positive, None].expand_as(target)
        losses = {
            "loss_cls": head.loss_cls(logits, self.cls_targets(task), cls_weights, avg_factor=cls_divisor),
            "loss_bbox": head.loss_bbox(prediction, target, box_weights, avg_factor=loc_divisor),
        }
        iou_logits = None
        if ious is not None:
            iou_logits = flat(ious, 1).squeeze(1).float()
            if self.state.rescoring and head.training:
                self.conv_iou.mark_trained()
        return losses | self.added_losses(task, iou_logits)

    def _matched(
        self, priors: Tensor, inside: Tensor, gts: Any, ignored: Any
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """The assignment of an image, [A] each.

        Returns:
            ``gt_inds`` of the config's assigner, -1 for anchors outside of the image; the anchors that can be ignored
            candidates: not those outside, nor those in ignored boxes; the positives and negatives that the config's
            sampler draws.
        """
        head: Any = self
        if not inside.any():
            border = head.train_cfg["allowed_border"]
            raise ValueError(
                f"{type(self).__name__}: no anchor is inside of the image (allowed_border={border}); check the sizes "
                "of images and anchors, or set allowed_border=-1"
            )
        instances = InstanceData(priors=priors[inside])
        result = head.assigner.assign(instances, gts, ignored)
        gt_inds = torch.full_like(inside, -1, dtype=torch.int64)
        gt_inds[inside] = result.gt_inds
        eligible = torch.zeros_like(inside)
        if isinstance(head.assigner, MaxIoUAssigner):
            eligible[inside] = result.max_overlaps >= 0  # -1 marks the anchors in ignored boxes
        if self.state.mutual or isinstance(head.sampler, PseudoSampler):
            return gt_inds, eligible, (gt_inds > 0, gt_inds == 0)
        sample = head.sampler.sample(result, instances, gts)
        place = inside.nonzero().squeeze(1)
        drawn = torch.zeros(2, len(inside), dtype=torch.bool, device=inside.device)
        drawn[0, place[sample.pos_inds]] = True
        drawn[1, place[sample.neg_inds]] = True
        return gt_inds, eligible, (drawn[0], drawn[1])

    def _assignment(
        self, gt_inds: list[Tensor], eligible: list[Tensor], priors: Tensor, gt_boxes: list[Tensor]
    ) -> Assignment:
        """The baseline's. With mutual labeling, MaxIoUAssigner's ignored anchors are candidates, each of the gt of its
        largest IoU, which the assigner does not return."""
        assigner = self.assigner  # type: ignore[attr-defined]
        candidates = None
        all_candidates = self.state.config.candidates_of("all") == "all"
        if self.state.mutual and all_candidates and isinstance(assigner, MaxIoUAssigner):
            low = assigner.neg_iou_thr
            low = max(low) if isinstance(low, tuple | list) else low
            candidates = list(torch.where(torch.stack(eligible), nearest_gts(priors, gt_boxes, low), -1))
        counts = [len(boxes) for boxes in gt_boxes]
        return Assignment.from_matched(gt_inds, num_gts=counts, convention="mmdetection", candidates=candidates)

    def _sampled(
        self, task: TaskTargets, num_images: int, samples: list[tuple[Tensor, Tensor]]
    ) -> tuple[TaskTargets, Tensor, Tensor]:
        """``task`` of the anchors that are drawn, and MMDetection's divisors of both tasks' losses."""

        sampler = self.sampler  # type: ignore[attr-defined]
        if isinstance(sampler, PseudoSampler):
            positives = (task.cls_labels > 0, task.loc_positive)
            cls_divisor, loc_divisor = (count_per_image(mask, num_images).float() for mask in positives)
            return task, cls_divisor, loc_divisor
        if self.state.mutual:  # by the weights, each task separately
            max_positive = int(sampler.num * sampler.pos_fraction)
            positive, negative, loc = sample_tasks(task, num_images, sampler.num, max_positive)
        else:
            positive, negative = (torch.stack(masks) for masks in zip(*samples, strict=True))
            loc = positive
        divisor = (count_per_image(positive, num_images) + count_per_image(negative, num_images)).float()
        return task.sampled(positive, negative, loc, divisor), divisor, divisor
