"""RetinaNet with mutual labeling and IoU rescoring."""

from __future__ import annotations

from torch import Tensor

from mlc_ext import Assigner, MaxIoUAssigner, MLCConfig, TaskTargets, count_per_image, normalizer

from .anchor_detector import AnchorDetector
from .anchors import AnchorGenerator
from .backbones.build import build_backbone
from .cls_losses import classification_loss
from .fpn import pyramid
from .heads import RetinaNetHead
from .postprocess import Postprocessor

NUM_LEVELS = 5


class RetinaNet(AnchorDetector):
    """RetinaNet (Lin et al., 2017).

    Args:
        num_classes: real classes, C.
        backbone: a name of :func:`mlc_ext.detectors.models.backbones.build.build_backbone`, or a module like
            those it builds.
        mlc: the method's settings, by default ``MLCConfig.paper("retinanet")``.
        smooth_l1_beta: of the box loss on deltas; 0 is L1 (MMDetection 3.x), 0.11 MMDetection 1.1's.
        mmdet1: MMDetection 1.1's anchors and coder (+1 widths).
        torchvision_anchors: anchors of whole pixels (see :class:`AnchorGenerator`).
        fpn_channels, num_convs, norm: width of the pyramid, depth and normalization of the towers.
        extra_levels: see :func:`pyramid`.
        assigner: defaults to 0.5 / 0.4 with forced matches and the candidates of ``mlc``.
        cls_loss: "focal", "quality_focal" or "varifocal" (see :func:`classification_loss`).
        postprocessor: defaults to score 0.05, 1000 a level, NMS 0.5, 100 an image.
        backbone_options: further arguments of ``build_backbone``.
    """

    EXTRA_LEVELS = "c5"

    def __init__(
        self,
        num_classes: int,
        *,
        backbone="resnet50",
        mlc: MLCConfig | None = None,
        smooth_l1_beta: float = 0.0,
        mmdet1: bool = False,
        torchvision_anchors: bool = False,
        fpn_channels: int = 256,
        num_convs: int = 4,
        norm: str | None = None,
        extra_levels: str = EXTRA_LEVELS,
        assigner: Assigner | None = None,
        cls_loss: str = "focal",
        postprocessor: Postprocessor | None = None,
        backbone_options: dict | None = None,
    ) -> None:
        mlc = mlc or MLCConfig.paper("retinanet")
        if isinstance(backbone, str):
            backbone = build_backbone(backbone, **(backbone_options or {}))
        anchors = AnchorGenerator.retinanet(mmdet1=mmdet1, torchvision=torchvision_anchors)
        fpn = pyramid(backbone.out_channels, fpn_channels, extra_levels, NUM_LEVELS)
        head = RetinaNetHead(
            fpn_channels, anchors.num_anchors, num_classes, num_convs=num_convs, norm=norm, iou=mlc.iur
        )
        super().__init__(
            backbone,
            fpn,
            head,
            anchors=anchors,
            assigner=assigner or MaxIoUAssigner(candidates=mlc.candidates_of("all")),
            mmdet1=mmdet1,
            smooth_l1_beta=smooth_l1_beta,
            mlc=mlc,
            cls_loss=cls_loss,
            postprocessor=postprocessor or Postprocessor(),
        )
        self.num_classes = num_classes

    def task_losses(
        self, outputs: dict[str, Tensor], priors: Tensor, boxes: Tensor, task: TaskTargets, num_images: int
    ) -> dict[str, Tensor]:
        cls_loss = classification_loss(self.cls_loss, outputs["cls_logits"].flatten(0, 1), task)
        box_loss = self.box_loss(outputs, priors, task, task.loc_weights, num_images)
        return {
            "classification": cls_loss / normalizer(count_per_image(task.cls_labels > 0, num_images)),
            "bbox_regression": box_loss / normalizer(count_per_image(task.loc_positive, num_images)),
        }
