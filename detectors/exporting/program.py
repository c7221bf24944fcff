"""A detector as a program of torch.export, from which every format is written."""

from __future__ import annotations

import contextlib
import copy
import dataclasses

import torch
import torch.fx.experimental._config
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..models.backbones.efficientnet import EfficientNetLite0
from ..models.coders import clip_boxes
from ..models.dense_detector import DenseDetector
from ..models.memory_layout import unset_memory_layout

MAX_BATCH, MAX_SIDE = 1024, 16384
"""The largest batch and image side of an exported file."""

INPUT, OUTPUTS = "images", ("boxes", "scores", "labels", "count")


class DetectionProgram(nn.Module):
    """A detector as a function of one tensor, with outputs of a fixed size.

    Forward: uint8 images [N, 3, H, W], RGB, of one size, resized by the caller -> ``boxes`` float32 [N, M, 4] xyxy in
    pixels, ``scores`` float32 [N, M], ``labels`` int64 [N, M] in 1..C, ``count`` int64 [N]. M is ``max_detections``.
    The first ``count`` of an image are its detections, best first, and the rest is 0. Normalization and padding are
    part of it.
    """

    def __init__(self, detector: DenseDetector) -> None:
        super().__init__()
        self.detector = copy.deepcopy(detector).eval()
        unset_memory_layout(self.detector)
        if isinstance(self.detector.backbone, EfficientNetLite0):
            self.detector.backbone.fix_padding()
        if detector.postprocessor.score_threshold < 0:  # AOTInductor cannot store -inf; no score is below 0
            self.detector.postprocessor = dataclasses.replace(detector.postprocessor, score_threshold=-1.0)
        for name, layer in self.detector.head.named_children():
            if isinstance(layer, nn.Conv2d) and layer.out_channels == 1:
                setattr(self.detector.head, name, _OneChannel(layer))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        detector = self.detector
        height, width = images.shape[-2:]
        divisor = detector.size_divisor
        # this form of rounding up is the one from which torch.export derives that no level is empty
        bottom, right = ((side + divisor - 1) // divisor * divisor - side for side in (height, width))
        batch = F.pad(detector.backbone.normalization(images), (0, right, 0, bottom))
        outputs, feature_sizes = detector.batch_outputs(batch)
        boxes, level_sizes = detector.boxes(outputs, feature_sizes)
        boxes = clip_boxes(boxes, (height, width))
        found = detector.postprocessor.padded(outputs["cls_logits"], boxes, detector.quality(outputs), level_sizes)
        most = detector.postprocessor.max_detections
        missing = most - found.scores.shape[1]
        valid = torch.arange(most, device=images.device) < found.counts[:, None]
        boxes = torch.where(valid[..., None], F.pad(found.boxes, (0, 0, 0, missing)), 0.0)
        labels = torch.where(valid, F.pad(found.labels, (0, missing)), 0)
        return boxes, F.pad(found.scores, (0, missing)), labels, found.counts


class _OneChannel(nn.Module):
    """A convolution of one output channel, computed as two equal channels of which the first is kept. A tensor of one
    channel has the strides of both memory formats: torch.export would choose one by the example's size, and use it for
    all sizes."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.layer.weight.repeat(2, 1, 1, 1), self.layer.bias.repeat(2)
        return F.conv2d(x, weight, bias, self.layer.stride, self.layer.padding)[:, :1]


def sizes_may_be_one() -> contextlib.AbstractContextManager[None]:
    """Within, torch.export and AOTInductor do not assume that a size is larger than 1 because that of the example is:
    a level may have one cell, a batch one image."""
    return torch.fx.experimental._config.patch(backed_size_oblivious=True)


@torch.no_grad()
def export_program(detector: DenseDetector) -> ExportedProgram:
    """The detector, on the CPU, as a program of :class:`DetectionProgram` for any batch, height and width.

    NMS is the project's operator ``mlc_ext::batched_rescored_nms`` (or ``batched_iou_nms``): a process that loads the
    program must have the operators, in Python by ``import mlc_ext``.
    """
    program = DetectionProgram(detector)
    sides = {i: Dim(name, min=1, max=MAX_SIDE) for i, name in ((2, "height"), (3, "width"))}
    sizes = {0: Dim("batch", min=1, max=MAX_BATCH), **sides}
    example = torch.zeros(2, 3, 160, 224, dtype=torch.uint8)
    with sizes_may_be_one():
        return torch.export.export(program.eval(), (example,), dynamic_shapes={INPUT: sizes})
