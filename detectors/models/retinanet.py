"""RetinaNet with mutual labelling and IoU rescoring."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlc_ext.losses import count_per_image, normaliser, sigmoid_focal_loss, smooth_l1
from mlc_ext.mutual_labeling import Assignment, MLCConfig, TaskTargets

from .anchors import AnchorGenerator
from .assigners import MaxIoUAssigner
from .backbones.build import build_backbone
from .coders import DeltaXYWHCoder
from .dense_detector import DenseDetector, Target
from .fpn import FPN
from .heads import RetinaNetHead
from .postprocess import Postprocessor

NUM_LEVELS = 5


class RetinaNet(DenseDetector):
    """RetinaNet (Lin et al., 2017).

    Args:
        num_classes: real classes, C.
        backbone: a name of :func:`detectors.models.backbones.build.build_backbone`, or a module like those it builds.
        mlc: the method's settings; the paper's alpha here is 0.5.
        smooth_l1_beta: of the box loss on deltas; 0 is L1 (MMDetection 3.x), 0.11 MMDetection 1.1's.
        v1: MMDetection 1.1's anchors and coder (+1 widths).
        fpn_channels, num_convs: width of the pyramid, depth of the towers.
        assigner: defaults to 0.5 / 0.4 with forced matches.
        postprocessor: defaults to score 0.05, 1000 a level, NMS 0.5, 100 an image.
        backbone_options: further arguments of ``build_backbone``.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone="resnet50",
        mlc: MLCConfig | None = None,
        smooth_l1_beta: float = 0.0,
        v1: bool = False,
        fpn_channels: int = 256,
        num_convs: int = 4,
        assigner: MaxIoUAssigner | None = None,
        postprocessor: Postprocessor | None = None,
        backbone_options: dict | None = None,
    ) -> None:
        mlc = mlc or MLCConfig(alpha=0.5)
        if isinstance(backbone, str):
            backbone = build_backbone(backbone, **(backbone_options or {}))
        anchors = AnchorGenerator.retinanet(v1=v1)
        fpn = FPN(backbone.out_channels, fpn_channels, extra="on_c5", num_extra=NUM_LEVELS - len(backbone.out_channels))
        head = RetinaNetHead(fpn_channels, anchors.num_anchors, num_classes, num_convs=num_convs, iou=mlc.iur)
        super().__init__(backbone, fpn, head, mlc=mlc, postprocessor=postprocessor or Postprocessor())
        self.num_classes, self.smooth_l1_beta = num_classes, smooth_l1_beta
        self.anchors, self.coder = anchors, DeltaXYWHCoder(v1=v1)
        self.assigner = assigner or MaxIoUAssigner()

    def priors(self, feature_sizes: Sequence[tuple[int, int]], like: Tensor) -> list[Tensor]:
        return self.anchors(feature_sizes, device=like.device)

    def decode(self, outputs: dict[str, Tensor], priors: Tensor) -> Tensor:
        return self.coder.decode(priors, outputs["bbox_regression"])

    def assign(self, priors: list[Tensor], targets: list[Target]) -> Assignment:
        return self.assigner(torch.cat(priors), targets)

    def task_losses(
        self, outputs: dict[str, Tensor], priors: Tensor, boxes: Tensor, task: TaskTargets, num_images: int
    ) -> dict[str, Tensor]:
        cls_loss = sigmoid_focal_loss(outputs["cls_logits"].flatten(0, 1), task.cls_labels, task.cls_weights)
        deltas = self.coder.encode(priors.repeat(num_images, 1), task.matched_boxes)
        predicted = outputs["bbox_regression"].flatten(0, 1)
        box_loss = smooth_l1(predicted, deltas, task.loc_weights, beta=self.smooth_l1_beta)
        return {
            "classification": cls_loss / normaliser(count_per_image(task.cls_labels > 0, num_images)),
            "bbox_regression": box_loss / normaliser(count_per_image(task.loc_positive, num_images)),
        }
