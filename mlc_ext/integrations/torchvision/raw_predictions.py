"""raw_predictions: a detector's predictions before NMS, as Divergence takes them."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import clip_boxes_to_image

from .common import flat_levels


@torch.no_grad()
def raw_predictions(model: nn.Module, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """Every prediction of a detector before any threshold and NMS: the input of :class:`mlc_ext.Divergence`.

    Args:
        model: torchvision's FCOS, RetinaNet or a model with an RPN, in evaluation mode, converted by
            :func:`apply_mlc` or not.
        images: [3, H, W] each, as the model takes them.

    Returns:
        A dict for each image. ``boxes`` [P, 4] xyxy in the image's own pixels, clipped to it; ``scores`` [P, C], what
        the detector ranks by; ``raw_scores`` [P, C], class scores. Column c is label c, as everywhere in torchvision:
        ``Divergence(first_label=0)``. Of a model with an RPN, its proposals; the one column is the objectness, so that
        every gt has label 0.

    Raises:
        TypeError: another model. ValueError: the model is in training mode.
    """
    rpn = getattr(model, "rpn", None)
    if not isinstance(model, FCOS | RetinaNet) and rpn is None:
        raise TypeError(f"raw_predictions: model must be FCOS, RetinaNet or have an rpn, got {type(model).__name__}")
    if model.training:
        raise ValueError("raw_predictions: call model.eval() first")
    detector: Any = model
    batch, _ = detector.transform(list(images), None)
    features = detector.backbone(batch.tensors)
    if isinstance(features, Tensor):
        features = OrderedDict([("0", features)])
    outputs = _of_rpn(rpn, batch, features) if rpn is not None else _of_dense(detector, batch, features)
    results = []
    for boxes, scores, raw_scores, size, image in zip(*outputs, batch.image_sizes, images, strict=True):
        boxes = resize_boxes(clip_boxes_to_image(boxes, size), size, tuple(image.shape[-2:]))
        results.append({"boxes": boxes, "scores": scores, "raw_scores": raw_scores})
    return results


def _of_dense(model: Any, batch: Any, features: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [B, P, 4] in the model's pixels, scores and raw scores [B, P, C]."""
    levels = list(features.values())
    outputs = model.head(levels)
    anchors = torch.stack(model.anchor_generator(batch, levels)).float()
    deltas = outputs["bbox_regression"].float()
    raw_scores = outputs["cls_logits"].float().sigmoid()
    if isinstance(model, FCOS):
        scores = (raw_scores * outputs["bbox_ctrness"].float().sigmoid()).sqrt()
        return model.box_coder.decode(deltas, anchors), scores, raw_scores
    boxes = model.box_coder.decode_single(deltas.flatten(0, 1), anchors.flatten(0, 1)).view_as(deltas)
    if "iou_logits" not in outputs:
        return boxes, raw_scores, raw_scores
    factors = model.head.regression_head.iou_logits.ranking_logits(outputs["iou_logits"])
    return boxes, raw_scores * factors.sigmoid(), raw_scores


def _of_rpn(rpn: Any, batch: Any, features: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    levels = list(features.values())
    objectness, deltas, *ious = rpn.head(levels)
    anchors = rpn.anchor_generator(batch, levels)
    flat_deltas = flat_levels(deltas, 4).float()
    boxes = rpn.box_coder.decode(flat_deltas.flatten(0, 1), anchors).view_as(flat_deltas)
    raw_scores = flat_levels(objectness, 1).float().sigmoid()
    if not ious:
        return boxes, raw_scores, raw_scores
    factors = rpn.head.iou_logits.ranking_logits(flat_levels(ious[0], 1))
    return boxes, raw_scores * factors.sigmoid(), raw_scores
