"""What RetinaNet's and RPN's heads share: the assignment by the config's own assigner, and the losses."""

import dataclasses
from itertools import accumulate
from typing import Any

import torch
from mmdet.models.task_modules.assigners import MaxIoUAssigner
from mmdet.models.task_modules.prior_generators import anchor_inside_flags
from mmdet.models.task_modules.samplers import PseudoSampler, RandomSampler
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor

from ...assignment import Assignment
from ...mutual_labeling import TaskTargets, task_targets
from ...ops import match_boxes
from ...sampling import sample_at_most, sample_balanced
from .._gradient import decoding
from .._iou_layer import IoULayer
from .head import FIRST_LABEL, MLCHead, flat, gts_of


class MLCAnchorHead(MLCHead):
    """Base of the anchor-based heads. With ``mlc.iur`` they have one layer more, ``conv_iou``.

    The config's assigner, box coder and losses stay in use. MaxIoUAssigner's ignored anchors are the originally ignored
    candidates of mutual labeling; of another assigner the positives alone are candidates.

    Raises:
        ValueError: ``mlc.candidates`` is "own_levels". TypeError: the sampler is neither PseudoSampler nor
        RandomSampler.
    """

    conv_iou: IoULayer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.state.config.candidates == "own_levels":
            raise ValueError(f"{type(self).__name__}: candidates 'own_levels' is for FCOS")
        sampler = getattr(self, "sampler", None)  # absent without train_cfg
        if type(sampler) not in (PseudoSampler, RandomSampler, type(None)):
            raise TypeError(f"{type(self).__name__}: sampler must be a PseudoSampler or RandomSampler, got {sampler}")

    def factors(self, score_factors: list[Tensor]) -> list[Tensor]:
        """Those of ``conv_iou``; before it has been trained the factor is sigmoid(inf) = 1."""
        return [self.conv_iou.ranking_logits(level) for level in score_factors]

    def loss_by_feat(self, cls_scores: list[Tensor], bbox_preds: list[Tensor], *rest: Any) -> dict[str, Tensor]:
        """MMDetection's losses, and the method's ``loss_iou``.

        Args:
            cls_scores: [B, A * C, H, W] of each level.
            bbox_preds: [B, A * 4, H, W] of each level.
            rest: with ``mlc.iur`` the IoU's logits, [B, A, H, W] of each level. Then MMDetection's
                ``batch_gt_instances``, ``batch_img_metas`` and, optional, ``batch_gt_instances_ignore``.
        """
        self.state.warn_without_epoch()
        ious: list[Tensor] | None = None
        if self.state.config.iur:
            ious, *rest = rest  # type: ignore[assignment]
        if self.active:
            return self._losses(cls_scores, bbox_preds, ious, *rest)
        losses: dict[str, Tensor] = super().loss_by_feat(cls_scores, bbox_preds, *rest)  # type: ignore[misc]
        if ious is not None:  # every rank's graph has the layer
            losses["loss_iou"] = torch.stack([level.sum() for level in ious]).sum() * 0
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
        task = task_targets(
            self._assignment([gt for gt, _ in found], priors, inside, gt_boxes),
            logits,
            boxes,
            torch.cat(gt_boxes),
            gt_labels,
            config,
            mutual=self.state.mutual,
            first_label=FIRST_LABEL,
        )
        task, cls_divisor, loc_divisor = self._sampled(task, num_images, [sample for _, sample in found])
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
            if self.state.rescoring:
                self.conv_iou.mark_trained()
        return losses | self.added_losses(task, iou_logits)

    def _matched(self, priors: Tensor, inside: Tensor, gts: Any, ignored: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """``gt_inds`` [A] of the config's assigner, -1 for anchors outside of the image; and what the config's sampler
        draws: positives and negatives, [A] bool each."""
        head: Any = self
        instances = InstanceData(priors=priors[inside])
        result = head.assigner.assign(instances, gts, ignored)
        gt_inds = torch.full_like(inside, -1, dtype=torch.int64)
        gt_inds[inside] = result.gt_inds
        if self.state.mutual or isinstance(head.sampler, PseudoSampler):
            return gt_inds, (gt_inds > 0, gt_inds == 0)
        sample = head.sampler.sample(result, instances, gts)
        place = inside.nonzero().squeeze(1)
        drawn = torch.zeros(2, len(inside), dtype=torch.bool, device=inside.device)
        drawn[0, place[sample.pos_inds]] = True
        drawn[1, place[sample.neg_inds]] = True
        return gt_inds, (drawn[0], drawn[1])

    def _assignment(
        self, gt_inds: list[Tensor], priors: Tensor, inside: list[Tensor], gt_boxes: list[Tensor]
    ) -> Assignment:
        """The baseline's. With mutual labeling, MaxIoUAssigner's ignored anchors are candidates, each of the gt of its
        largest IoU, which the assigner does not return."""
        assigner = self.assigner  # type: ignore[attr-defined]
        counts, candidates = [len(boxes) for boxes in gt_boxes], None
        all_candidates = self.state.config.candidates_of("all") == "all"
        if self.state.mutual and all_candidates and isinstance(assigner, MaxIoUAssigner):
            low = assigner.neg_iou_thr
            low = max(low) if isinstance(low, tuple | list) else low
            offsets = torch.tensor([0, *accumulate(counts)], device=priors.device)
            best = match_boxes(priors, torch.cat(gt_boxes), offsets, high=low, low=low, forced=None).candidate_gt
            best = torch.where((best >= 0) & torch.stack(inside), best - offsets[:-1, None], -1)
            candidates = list(best)
        return Assignment.from_matched(gt_inds, num_gts=counts, convention="mmdetection", candidates=candidates)

    def _sampled(
        self, task: TaskTargets, num_images: int, samples: list[tuple[Tensor, Tensor]]
    ) -> tuple[TaskTargets, Tensor, Tensor]:
        """``task`` of the anchors that are drawn, and MMDetection's divisors of both tasks' losses."""

        def rows(x: Tensor) -> Tensor:
            return x.view(num_images, -1)

        sampler = self.sampler  # type: ignore[attr-defined]
        if isinstance(sampler, PseudoSampler):
            return task, _at_least_one(rows(task.cls_labels > 0)), _at_least_one(rows(task.loc_positive))
        if self.state.mutual:  # by the weights, and for each task apart
            size, max_positive = sampler.num, int(sampler.num * sampler.pos_fraction)
            positive, negative = sample_balanced(
                rows(task.cls_labels > 0), rows(task.cls_labels == 0), size, max_positive, rows(task.cls_weights)
            )
            loc = sample_at_most(rows(task.loc_positive), max_positive, max_positive, rows(task.loc_weights))
        else:
            positive, negative = (torch.stack(masks) for masks in zip(*samples, strict=True))
            loc = positive
        divisor = _at_least_one(positive) + _at_least_one(negative)
        drawn = (positive | negative).flatten()
        sampled = dataclasses.replace(
            task,
            cls_weights=task.cls_weights * drawn,
            loc_weights=task.loc_weights * loc.flatten(),
            iou_positive=(positive | loc).flatten(),
            sampled_normalizer=divisor,
        )
        return sampled, divisor, divisor


def _at_least_one(mask: Tensor) -> Tensor:
    """Scalar: the number of True, counted as at least one in each image, as MMDetection does. mask: [B, A]."""
    return mask.sum(1).clamp(min=1).sum().float()
