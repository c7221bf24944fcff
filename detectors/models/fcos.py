"""FCOS, and FCOS- without centerness, with mutual labeling and IoU rescoring."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlc_ext import (
    Assigner,
    FCOSAssigner,
    MLCConfig,
    TaskTargets,
    centerness_loss,
    centerness_target,
    iou_loss,
    normalizer,
    reduce_mean,
)

from .anchors import fcos_points
from .backbones.build import build_backbone
from .cls_losses import classification_loss
from .coders import LTRBCoder
from .dense_detector import DenseDetector
from .fpn import pyramid
from .heads import FCOSHead
from .postprocess import Postprocessor

NUM_LEVELS = 5


class FCOS(DenseDetector):
    """FCOS (Tian et al., 2019). With ``centerness=False`` it is the paper's FCOS-.

    Args:
        num_classes: real classes, C.
        backbone: a name of :func:`mlc_ext.detectors.models.backbones.build.build_backbone`, or a module like
            those it builds.
        centerness: predict centerness and multiply the score with it.
        centerness_weights: weigh the box loss by the centerness target, and divide it by their sum instead of the
            count of positives. None: as ``centerness``.
        mlc: the method's settings.
        box_loss: "iou" (-log IoU), "giou" or "linear_iou".
        cls_loss: "focal", "quality_focal" or "varifocal" (see :func:`classification_loss`).
        assigner: of points to gts, in which its positives must lie. None: FCOS's own, with ``center_sampling_radius``
            and the candidates of ``mlc``.
        fpn_channels, num_convs, norm: width of the pyramid, depth and normalization of the towers.
        extra_levels: see :func:`pyramid`.
        center_sampling_radius, norm_on_bbox, centerness_on: the later tricks (see FCOSAssigner, FCOSHead).
        mmdet1: MMDetection 1.1's: the classification loss is divided by positives + images, areas have +1 widths.
        postprocessor: defaults to score 0.05, 1000 a level, NMS 0.5, 100 an image.
        backbone_options: further arguments of ``build_backbone`` (weights, norm, frozen_stages, style).
    """

    TOWER_NORM = "gn"
    EXTRA_LEVELS = "p5_relu"

    def __init__(
        self,
        num_classes: int,
        *,
        backbone="resnet50",
        centerness: bool = False,
        centerness_weights: bool | None = None,
        mlc: MLCConfig | None = None,
        box_loss: str = "iou",
        cls_loss: str = "focal",
        assigner: Assigner | None = None,
        fpn_channels: int = 256,
        num_convs: int = 4,
        norm: str | None = TOWER_NORM,
        extra_levels: str = EXTRA_LEVELS,
        center_sampling_radius: float | None = None,
        norm_on_bbox: bool = False,
        centerness_on: str = "cls",
        mmdet1: bool = False,
        postprocessor: Postprocessor | None = None,
        backbone_options: dict | None = None,
    ) -> None:
        mlc = mlc or MLCConfig()
        if isinstance(backbone, str):
            backbone = build_backbone(backbone, **(backbone_options or {}))
        fpn = pyramid(backbone.out_channels, fpn_channels, extra_levels, NUM_LEVELS)
        strides = fpn.level_strides(backbone.strides)
        head = FCOSHead(
            fpn_channels,
            num_classes,
            num_convs=num_convs,
            norm=norm,
            centerness=centerness,
            iou=mlc.iur,
            centerness_on=centerness_on,
            norm_on_bbox=norm_on_bbox,
            strides=strides,
        )
        super().__init__(
            backbone,
            fpn,
            head,
            assigner=assigner
            or FCOSAssigner(
                strides,
                center_sampling_radius=center_sampling_radius,
                v1=mmdet1,
                candidates=mlc.fcos_candidates,
            ),
            mlc=mlc,
            cls_loss=cls_loss,
            postprocessor=postprocessor or Postprocessor(),
        )
        self.num_classes, self.strides, self.box_loss, self.mmdet1 = num_classes, strides, box_loss, mmdet1
        self.centerness = centerness
        self.centerness_weights = centerness if centerness_weights is None else centerness_weights
        self.coder = LTRBCoder()

    def priors(self, feature_sizes: Sequence[tuple[int, int]], like: Tensor) -> list[Tensor]:
        return fcos_points(feature_sizes, self.strides, device=like.device)

    def decode(self, outputs: dict[str, Tensor], priors: Tensor) -> Tensor:
        return self.coder.decode(priors, outputs["bbox_regression"])

    def task_losses(
        self, outputs: dict[str, Tensor], priors: Tensor, boxes: Tensor, task: TaskTargets, num_images: int
    ) -> dict[str, Tensor]:
        cls_loss = classification_loss(self.cls_loss, outputs["cls_logits"].flatten(0, 1), task)
        num_positive = task.num_cls_positive + num_images if self.mmdet1 else task.num_cls_positive
        losses = {"classification": cls_loss / normalizer(num_positive)}
        return losses | self._box_losses(outputs, priors, boxes, task, num_images)

    def _box_losses(
        self, outputs: dict[str, Tensor], points: Tensor, boxes: Tensor, task: TaskTargets, num_images: int
    ) -> dict[str, Tensor]:
        """The localization loss over A+loc, and that of centerness."""
        num_positive = normalizer(task.num_loc_positive)
        losses = {}
        if self.centerness or self.centerness_weights:
            ltrb = self.coder.encode(points.repeat(num_images, 1), task.matched_boxes)
            target = torch.where(task.loc_positive, centerness_target(ltrb), 0.0)
        if self.centerness:
            ctrness = centerness_loss(outputs["bbox_ctrness"].flatten(), target, task.loc_positive)
            losses["bbox_ctrness"] = ctrness / num_positive
        weights, divisor = task.loc_weights, num_positive
        if self.centerness_weights:
            weights = weights * target
            # MMDetection divides by the sum of centerness, kept from 0 by a hair rather than by 1
            divisor = reduce_mean(target.sum()).clamp(min=1e-6)
        box_loss = iou_loss(boxes, task.matched_boxes, weights, kind=self.box_loss)
        return losses | {"bbox_regression": box_loss / divisor}
