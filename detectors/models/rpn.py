"""The region proposal network with mutual labeling and IoU rescoring."""

from __future__ import annotations

from torch import Tensor

from mlc_ext import (
    MaxIoUAssigner,
    MLCConfig,
    TaskTargets,
    binary_cross_entropy_loss,
    count_per_image,
    normalizer,
    sample_tasks,
)
from mlc_ext.sampling import sample_classification

from .anchor_detector import AnchorDetector
from .anchors import AnchorGenerator
from .backbones.build import build_backbone
from .fpn import FPN
from .heads import RPNHead
from .postprocess import Postprocessor

PROPOSALS = Postprocessor(
    score_threshold=float("-inf"), pre_nms_top_k=2000, iou_threshold=0.7, max_detections=1000, per_level=True
)
"""2000 a level, NMS 0.7 within a level, 1000 an image."""


class RPN(AnchorDetector):
    """RPN (Ren et al., 2015) on P2-P6; its detections are class-agnostic proposals (label 1).

    With mutual labeling all candidates are labeled first; the classification sample is then drawn from A+cls and the
    negatives, the localization sample separately from A+loc. Positives of weight 1, the originals, are drawn first, the
    others in proportion to their weights. One normalizer, the count of the classification sample, serves all losses,
    the IoU layer's included.

    Args:
        backbone: a name of :func:`mlc_ext.detectors.models.backbones.build.build_backbone`, or a module that
            gives C2-C5.
        mlc: the method's settings, by default ``MLCConfig.paper("rpn")``.
        sample_size, max_positive: priors drawn per image, and how many of them may be positive.
        smooth_l1_beta: of the box loss on deltas; 0 is L1 (MMDetection 3.x), 1/9 MMDetection 1.1's.
        mmdet1: MMDetection 1.1's anchors and coder (+1 widths).
        torchvision_anchors: anchors of whole pixels (see :class:`AnchorGenerator`).
        assigner: defaults to 0.7 / 0.3, forced matches from 0.3, and the candidates of ``mlc``.
        postprocessor: defaults to PROPOSALS.
        backbone_options: further arguments of ``build_backbone``.
    """

    EXTRA_LEVELS = "pool"
    class_agnostic = True

    def __init__(
        self,
        *,
        backbone="resnet50",
        mlc: MLCConfig | None = None,
        sample_size: int = 256,
        max_positive: int = 128,
        smooth_l1_beta: float = 0.0,
        mmdet1: bool = False,
        torchvision_anchors: bool = False,
        fpn_channels: int = 256,
        assigner: MaxIoUAssigner | None = None,
        postprocessor: Postprocessor | None = None,
        backbone_options: dict | None = None,
    ) -> None:
        mlc = mlc or MLCConfig.paper("rpn")
        if isinstance(backbone, str):
            backbone = build_backbone(backbone, **({"out_indices": (0, 1, 2, 3)} | (backbone_options or {})))
        if not 0 < max_positive <= sample_size:
            raise ValueError(f"RPN: max_positive must be in 1..{sample_size} (sample_size), got {max_positive}")
        anchors = AnchorGenerator.rpn(mmdet1=mmdet1, torchvision=torchvision_anchors)
        fpn = FPN(backbone.out_channels, fpn_channels, extra=self.EXTRA_LEVELS, num_extra=1)
        head = RPNHead(fpn_channels, anchors.num_anchors, iou=mlc.iur)
        super().__init__(
            backbone,
            fpn,
            head,
            anchors=anchors,
            assigner=assigner
            or MaxIoUAssigner(high=0.7, low=0.3, min_forced_iou=0.3, candidates=mlc.candidates_of("all")),
            mmdet1=mmdet1,
            smooth_l1_beta=smooth_l1_beta,
            mlc=mlc,
            postprocessor=postprocessor or PROPOSALS,
        )  # num_classes stays None: gts of any class are objects
        self.sample_size, self.max_positive = sample_size, max_positive

    def task_losses(
        self, outputs: dict[str, Tensor], priors: Tensor, boxes: Tensor, task: TaskTargets, num_images: int
    ) -> dict[str, Tensor]:
        """``classification`` is the objectness."""
        objectness = outputs["cls_logits"].flatten().float()
        cls_loss = binary_cross_entropy_loss(objectness, (task.cls_labels > 0).float(), task.cls_weights)
        box_loss = self.box_loss(outputs, priors, task, task.loc_weights, num_images)
        num_sampled = task.sampled_normalizer
        return {"classification": cls_loss / num_sampled, "bbox_regression": box_loss / num_sampled}

    def sampled(self, task: TaskTargets, num_images: int) -> TaskTargets:
        """The targets of the priors that are drawn; the IoU layer learns from the drawn positives of either task."""
        if self.mutual:
            positive, negative, loc = sample_tasks(task, num_images, self.sample_size, self.max_positive)
        else:  # the baseline's one sample serves both tasks
            positive, negative = sample_classification(task, num_images, self.sample_size, self.max_positive)
            loc = positive
        count = count_per_image(positive, num_images) + count_per_image(negative, num_images)
        return task.sampled(positive, negative, loc, normalizer(count))
