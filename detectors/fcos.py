"""FCOS, and FCOS- without centerness, with mutual labelling and IoU rescoring."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlc_ext.losses import centerness_loss, centerness_target, iou_loss, normaliser, reduce_mean, sigmoid_focal_loss
from mlc_ext.mutual_labeling import MLCConfig, TaskTargets, mlc_losses, task_targets

from .anchors import fcos_points
from .assigners import FCOSAssigner
from .backbone import build_backbone
from .coders import LTRBCoder
from .dense import DenseDetector, Target
from .fpn import FPN
from .heads import FCOSHead
from .postprocess import Postprocessor

NUM_LEVELS = 5


class FCOS(DenseDetector):
    """FCOS (Tian et al., 2019). With ``centerness=False`` it is the paper's FCOS-.

    Args:
        num_classes: real classes, C.
        backbone: a name of :func:`detectors.backbone.build_backbone`, or a module like those it builds.
        centerness: predict centerness, weigh the box loss by its target and multiply the score with it.
        mlc: the method's settings.
        box_loss: "iou" (-log IoU), "giou" or "linear_iou".
        fpn_channels, num_convs, norm: width of the pyramid, depth and normalisation of the towers.
        center_sampling_radius, norm_on_bbox, centerness_on: the later tricks (see FCOSAssigner, FCOSHead).
        postprocessor: defaults to score 0.05, 1000 a level, NMS 0.5, 100 an image.
        backbone_options: further arguments of ``build_backbone`` (weights, norm, frozen_stages, style).
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone="resnet50",
        centerness: bool = False,
        mlc: MLCConfig | None = None,
        box_loss: str = "iou",
        fpn_channels: int = 256,
        num_convs: int = 4,
        norm: str | None = "gn",
        center_sampling_radius: float | None = None,
        norm_on_bbox: bool = False,
        centerness_on: str = "cls",
        postprocessor: Postprocessor | None = None,
        backbone_options: dict | None = None,
    ) -> None:
        mlc = mlc or MLCConfig()
        if isinstance(backbone, str):
            backbone = build_backbone(backbone, **(backbone_options or {}))
        fpn = FPN(
            backbone.out_channels,
            fpn_channels,
            extra="on_p5",
            num_extra=NUM_LEVELS - len(backbone.out_channels),
            relu_before_extra=True,
        )
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
        super().__init__(backbone, fpn, head, mlc=mlc, postprocessor=postprocessor or Postprocessor())
        self.num_classes, self.strides, self.centerness, self.box_loss = num_classes, strides, centerness, box_loss
        self.assigner = FCOSAssigner(strides, center_sampling_radius=center_sampling_radius)
        self.coder = LTRBCoder()

    def priors(self, feature_sizes: Sequence[tuple[int, int]], like: Tensor) -> list[Tensor]:
        return fcos_points(feature_sizes, self.strides, device=like.device)

    def decode(self, outputs: dict[str, Tensor], priors: Tensor) -> Tensor:
        return self.coder.decode(priors, outputs["bbox_regression"])

    def losses(
        self, outputs: dict[str, Tensor], feature_sizes: Sequence[tuple[int, int]], targets: list[Target]
    ) -> dict[str, Tensor]:
        """``classification``, ``bbox_regression``, and as switched on ``bbox_ctrness``, ``iou_rescoring``,
        ``prediction_alignment``."""
        points = self.priors(feature_sizes, outputs["bbox_regression"])
        boxes = self.decode(outputs, torch.cat(points)).flatten(0, 1)
        cls_logits = outputs["cls_logits"].flatten(0, 1)
        task = task_targets(
            self.assigner(points, targets),
            cls_logits,
            boxes,
            torch.cat([t["boxes"] for t in targets]),
            torch.cat([t["labels"] for t in targets]),
            self.mlc,
            mutual=self.mutual,
        )
        losses = {
            "classification": sigmoid_focal_loss(cls_logits, task.cls_labels, task.cls_weights)
            / normaliser(task.num_cls_positive)
        }
        losses |= self._box_losses(outputs, torch.cat(points), boxes, task)
        iou_logits = outputs["iou_logits"].flatten() if "iou_logits" in outputs else None
        return losses | mlc_losses(task, iou_logits, self.mlc)

    def _box_losses(
        self, outputs: dict[str, Tensor], points: Tensor, boxes: Tensor, task: TaskTargets
    ) -> dict[str, Tensor]:
        """The localisation loss over A+loc; with centerness it is weighed by that, as FCOS does."""
        num_positive = normaliser(task.num_loc_positive)
        if not self.centerness:
            loss = iou_loss(boxes, task.matched_boxes, task.loc_weights, kind=self.box_loss)
            return {"bbox_regression": loss / num_positive}
        points = points.repeat(boxes.shape[0] // points.shape[0], 1)
        ltrb = self.coder.encode(points, task.matched_boxes)
        target = torch.where(task.loc_positive, centerness_target(ltrb), 0.0)
        loss = iou_loss(boxes, task.matched_boxes, task.loc_weights * target, kind=self.box_loss)
        ctrness = centerness_loss(outputs["bbox_ctrness"].flatten(), target, task.loc_positive)
        # MMDetection divides by the sum of centerness, kept from 0 by a hair rather than by 1
        return {
            "bbox_regression": loss / reduce_mean(target.sum()).clamp(min=1e-6),
            "bbox_ctrness": ctrness / num_positive,
        }
