"""What every dense detector shares: images in, features, head; losses in training, detections in evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mlc_ext import Assigner, Assignment, MLCConfig, Predictions, TaskTargets, mlc_losses, task_targets

from .assigners import ChosenAssigner, box_quality
from .batching import batch_images
from .postprocess import Postprocessor
from .targets import Target, prepare_targets


class Labeled(NamedTuple):
    """A batch's priors with what they train."""

    priors: Tensor
    """Of all levels, of one image: points [HWA, 2] or anchors [HWA, 4]."""
    boxes: Tensor
    """[N * HWA, 4] decoded predictions, xyxy pixels."""
    assignment: Assignment
    task: TaskTargets


class DenseDetector(nn.Module):
    """Backbone, pyramid and head, with torchvision's interface. A subclass adds priors and its own losses; the method's
    part of the criterion is here, once for all.

    ``model(images, targets)`` in training gives a dict of losses; ``model(images)`` in evaluation a list of dicts with
    ``boxes`` [n, 4] xyxy pixels of the image as given, ``labels`` [n] in 1..C and ``scores`` [n]. Images are [3, H, W]
    RGB tensors, float in 0..1 or uint8, of any sizes; resizing is the data pipeline's
    (mlc_ext.detectors.data.transforms).
    Targets are dicts of ``boxes`` [G, 4], ``labels`` [G] int64 in 1..C and, optionally, ``iscrowd`` [G] bool.

    Args:
        backbone: gives feature maps, with ``out_channels``, ``strides`` and ``normalization`` (see backbones.base).
        fpn: the pyramid on top of it.
        head: the dense head.
        assigner: of priors to gts; the baseline's rule.
        mlc: the method's settings; mutual labeling starts when :meth:`set_epoch` reaches its ``start_epoch``.
        postprocessor: detections from outputs.
        cls_loss: the classification loss, "focal" or one of quality (see :func:`classification_loss`).
        size_divisor: images are padded to multiples of this.
    """

    num_classes: int | None = None
    """Real classes, C; the targets' labels are checked against it."""

    strides: Sequence[int]
    """Pixels per cell of each level."""

    TOWER_NORM: str | None = None
    """The detector's own ``model.tower_norm``."""

    EXTRA_LEVELS: str
    """The detector's own ``model.extra_levels``; "pool" for RPN, which has no other."""

    class_agnostic: bool = False
    """Whether detections are proposals: evaluated by recall, all classes as one."""

    def __init__(
        self,
        backbone: nn.Module,
        fpn: nn.Module,
        head: nn.Module,
        *,
        assigner: Assigner,
        mlc: MLCConfig,
        postprocessor: Postprocessor,
        cls_loss: str = "focal",
        size_divisor: int = 32,
    ) -> None:
        super().__init__()
        self.backbone, self.fpn, self.head = backbone, fpn, head
        self.assigner, self.cls_loss = assigner, cls_loss
        self.mlc, self.postprocessor, self.size_divisor = mlc, postprocessor, size_divisor
        self.epoch = 0.0

    @property
    def mutual(self) -> bool:
        """Whether mutual labeling decides now."""
        return self.mlc.ml and self.epoch >= self.mlc.start_epoch

    @property
    def rescoring(self) -> bool:
        """Whether the IoU layer is trained now."""
        return self.mlc.iur and self.epoch >= self.mlc.rescoring_start

    def set_epoch(self, epoch: float) -> None:
        """Sets how many epochs the model has been trained. Mutual labeling starts at ``mlc.start_epoch``, IoU rescoring
        at ``mlc.rescoring_start``: in evaluation too, where an untrained IoU layer must not rank."""
        self.epoch = epoch
        if isinstance(self.assigner, ChosenAssigner):
            self.assigner.set_epoch(epoch)

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None):
        if self.training and targets is None:
            raise ValueError(f"{type(self).__name__}: targets must be given in training")
        outputs, feature_sizes, image_sizes = self.head_outputs(images)
        if self.training:
            device = outputs["cls_logits"].device
            return self.losses(outputs, feature_sizes, prepare_targets(targets, len(images), device, self.num_classes))
        return self.detections(outputs, feature_sizes, image_sizes)

    def head_outputs(
        self, images: Sequence[Tensor]
    ) -> tuple[dict[str, Tensor], list[tuple[int, int]], list[tuple[int, int]]]:
        """-> the head's outputs, (H, W) of each level, (H, W) of each image."""
        # normalized before they are padded: the padding is then the data's mean, as in MMDetection
        normalized = [self.backbone.normalization(image) for image in images]
        batch, image_sizes = batch_images(normalized, self.size_divisor)
        return *self.batch_outputs(batch), image_sizes

    def batch_outputs(self, batch: Tensor) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
        """The head's outputs and (H, W) of each level, from normalized and padded images [N, 3, H, W]."""
        features = self.fpn(self.backbone(batch))
        return self.head(features), [tuple(f.shape[-2:]) for f in features]

    def priors(self, feature_sizes: Sequence[tuple[int, int]], like: Tensor) -> list[Tensor]:
        """Priors of each level, on the device of ``like``."""
        raise NotImplementedError

    def decode(self, outputs: dict[str, Tensor], priors: Tensor) -> Tensor:
        """-> [N, HWA, 4] predicted boxes, xyxy pixels."""
        raise NotImplementedError

    def assign(self, priors: list[Tensor], targets: list[Target], predictions: Predictions | None = None) -> Assignment:
        """The baseline's assignment of every level's priors in every image; some assigners read predictions."""
        return self.assigner(priors, targets, predictions)

    def sampled(self, task: TaskTargets, num_images: int) -> TaskTargets:
        """``task`` with the priors that train left in it: all of them, or a sample (RPN)."""
        return task

    def task_losses(
        self, outputs: dict[str, Tensor], priors: Tensor, boxes: Tensor, task: TaskTargets, num_images: int
    ) -> dict[str, Tensor]:
        """The detector's own losses.

        Args:
            outputs: of the head.
            priors: of all levels, of one image.
            boxes: [N, 4] decoded predictions of the batch.
            task: who trains what, for the batch's N priors.
        """
        raise NotImplementedError

    def losses(
        self, outputs: dict[str, Tensor], feature_sizes: Sequence[tuple[int, int]], targets: list[Target]
    ) -> dict[str, Tensor]:
        """The criterion: ``classification``, ``bbox_regression``, FCOS's ``bbox_ctrness``, and as switched on
        ``iou_rescoring`` and ``prediction_alignment``."""
        labeled = self.label(outputs, feature_sizes, targets)
        task = self.sampled(labeled.task, len(targets))
        losses = self.task_losses(outputs, labeled.priors, labeled.boxes, task, len(targets))
        iou_logits = outputs["iou_logits"].flatten() if "iou_logits" in outputs else None
        return losses | mlc_losses(task, iou_logits, self.mlc, rescoring=self.rescoring)

    def label(
        self,
        outputs: dict[str, Tensor],
        feature_sizes: Sequence[tuple[int, int]],
        targets: list[Target],
        *,
        mutual: bool | None = None,
    ) -> Labeled:
        """Who trains what: mutually or the baseline's way, by default as is due (``self.mutual``). Targets are of
        :func:`prepare_targets`."""
        levels = self.priors(feature_sizes, outputs["bbox_regression"])
        priors = torch.cat(levels)
        predictions = Predictions(outputs["cls_logits"], self.decode(outputs, priors))
        boxes = predictions.boxes.flatten(0, 1)
        gt_boxes, gt_labels = (torch.cat([t[key] for t in targets]) for key in ("boxes", "labels"))
        assignment = self.assign(levels, targets, predictions)
        task = task_targets(
            assignment,
            outputs["cls_logits"].flatten(0, 1),
            boxes,
            gt_boxes,
            torch.ones_like(gt_labels) if self.class_agnostic else gt_labels,
            self.mlc,
            mutual=self.mutual if mutual is None else mutual,
            first_label=1,
        )
        if self.cls_loss != "focal":
            task = dataclasses.replace(task, quality=box_quality(self.assigner, assignment, task.ious, len(gt_boxes)))
        return Labeled(priors, boxes, assignment, task)

    def quality(self, outputs: dict[str, Tensor]) -> Tensor | None:
        """[N, HWA] what the class score is multiplied with at test, in [0, 1]: predicted IoU, once its layer is
        trained (``mlc.rescoring_start``), else centerness."""
        for key, used in (("iou_logits", self.rescoring), ("bbox_ctrness", True)):
            if used and key in outputs:
                return outputs[key].squeeze(-1).float().sigmoid()
        return None

    def detections(
        self,
        outputs: dict[str, Tensor],
        feature_sizes: Sequence[tuple[int, int]],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """The postprocessor's detections."""
        boxes, level_sizes = self.boxes(outputs, feature_sizes)
        return self.postprocessor(outputs["cls_logits"], boxes, self.quality(outputs), level_sizes, image_sizes)

    def boxes(self, outputs: dict[str, Tensor], feature_sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, list[int]]:
        """[N, HWA, 4] decoded boxes, xyxy pixels, and the number of priors of each level."""
        priors = self.priors(feature_sizes, outputs["bbox_regression"])
        # not len(), which torch.export would take for a constant
        return self.decode(outputs, torch.cat(priors)), [p.shape[0] for p in priors]

    @torch.no_grad()
    def detect(
        self, images: Sequence[Tensor], *, with_predictions: bool = False
    ) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
        """Detections, and with ``with_predictions`` :meth:`raw_predictions`, in one forward pass."""
        outputs, feature_sizes, sizes = self.head_outputs(images)
        detections = self.detections(outputs, feature_sizes, sizes)
        return detections, self.raw_predictions(outputs, feature_sizes, sizes) if with_predictions else []

    def raw_predictions(
        self,
        outputs: dict[str, Tensor],
        feature_sizes: Sequence[tuple[int, int]],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Every prior's prediction before NMS, for the divergence metric and for analyses.

        Of each image: ``boxes`` [HWA, 4] clipped to the image, ``scores`` [HWA, C] by which the detector ranks (class
        score x quality), ``raw_scores`` [HWA, C] the class scores.
        """
        boxes = self.boxes(outputs, feature_sizes)[0].float()
        raw = outputs["cls_logits"].float().sigmoid()
        quality = self.quality(outputs)
        ranked = raw if quality is None else raw * quality[..., None]
        limits = [boxes.new_tensor((w, h, w, h)) for h, w in image_sizes]
        return [
            {"boxes": b.clamp(min=0).minimum(limit), "scores": s, "raw_scores": r}
            for b, limit, s, r in zip(boxes, limits, ranked, raw, strict=True)
        ]
