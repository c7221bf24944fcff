"""A run's settings: plain dataclasses. The presets are in presets.py."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from mlc_ext import MLCConfig

PRECISIONS = ("fp32", "bf16", "fp16")

EVALUATORS = ("pycocotools", "faster_coco_eval")
"""Packages that compute the COCO metrics."""


@dataclass
class ModelConfig:
    detector: str = "fcos-"
    """"fcos-" (without centerness), "fcos", "retinanet" or "rpn"."""
    backbone: str = "resnet50"
    """A name of mlc_ext.detectors.models.backbones.build.build_backbone."""
    weights: str | None = None
    """Path of ImageNet weights (torchvision's files); "imagenet": efficientnet_lite0's own package."""
    frozen_stages: int | None = None
    """Stages of the backbone that are not trained: 0 none, 1 the stem, 2 the first stage too; None: 2 with weights,
    else 0."""
    norm: str | None = None
    """Batch norm of the backbone: "bn" trained, "frozen_bn" with fixed statistics, "fixed"; None: "frozen_bn" with
    weights, else "bn"."""
    style: str = "pytorch"
    """Where a ResNet's bottlenecks have their stride: "pytorch" (the 3x3) or "caffe" (the first 1x1)."""
    fpn_channels: int = 256
    num_convs: int = 4
    """3x3 convolutions in each tower of the head; RPN's has one always."""
    box_loss: str = "iou"
    """FCOS: "iou" (-log IoU), "giou" or "linear_iou"."""
    center_sampling_radius: float | None = None
    """FCOS: None, or the radius in strides around a gt's center that its positives lie in."""
    norm_on_bbox: bool = False
    """FCOS: regress in units of the stride, without the exponential."""
    centerness_on: str = "cls"
    """FCOS: the tower that predicts centerness, "cls" or "reg"."""
    centerness_weights: bool | None = None
    """FCOS: whether the box loss is weighed by centerness; None: where it is predicted."""
    v1: bool = False
    """MMDetection 1.1's: FCOS's normalizer and areas; RetinaNet's and RPN's anchors, coder and smooth L1."""
    smooth_l1_beta: float | None = None
    """RetinaNet, RPN: of the box loss; 0 is L1; None: 0, with v1 0.11 and 1/9."""
    nms: str = "rescored"
    """"rescored" (by score x quality) or "iou" (IoU-Net's, by predicted IoU; needs mlc.iur)."""
    nms_threshold: float | None = None
    """IoU above which a box is dropped; None: 0.5, RPN 0.7."""


@dataclass
class DataConfig:
    data: str | None = None
    """Folder of a COCO-format data set; None: the generated one."""
    train_images: str | None = None
    train_annotations: str | None = None
    val_images: str | None = None
    val_annotations: str | None = None
    categories: tuple[str, ...] | None = None
    """Names of the categories to train and evaluate on ("person,car"); None: all."""
    short_side: int | tuple[int, ...] = 800
    """Pixels the short side is resized to. Several (480,640,800) are multi-scale training: each image draws one."""
    long_side: int = 1333
    """The most pixels of the long side; the short one is smaller where it would be longer."""
    eval_short_side: int | None = None
    """The short side in evaluation; None: the largest of short_side."""
    flip: float = 0.5
    limit_train: int | None = None
    """Only the first so many training images (overfitting checks)."""
    val_is_train: bool = False
    """Evaluate on the training images (overfitting checks)."""
    keep_empty: bool = True
    """Keep images without boxes as pure background."""
    strict: bool = False
    """A missing, malformed or broken image is an error; otherwise it is left out and told."""
    verify: bool = False
    """Decode every image once before training and leave the broken ones out."""
    cache: bool = False
    """Keep all image files in memory, encoded."""
    workers: int = 0
    """Processes that load images; 0: the training process itself."""
    evaluator: str = "pycocotools"
    """"pycocotools" or "faster_coco_eval" (the same figures in less time; pycocotools where it is not installed)."""
    generated_images: int = 320
    """Training images of the generated set; a quarter as many are added for validation."""
    generated_size: int = 160

    def __post_init__(self) -> None:
        sides = self.short_side if isinstance(self.short_side, tuple) else (self.short_side,)
        if not sides:
            raise ValueError("data.short_side must be a side or several, got none")
        least = {f"short_side[{k}]" if len(sides) > 1 else "short_side": (side, 1) for k, side in enumerate(sides)}
        for name, low in (("long_side", 1), ("eval_short_side", 1), ("limit_train", 1), ("workers", 0)):
            least[name] = getattr(self, name), low
        for name, (value, low) in least.items():
            if value is not None and value < low:
                raise ValueError(f"data.{name} must be at least {low}, got {value}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"data.flip must be in 0..1, got {self.flip}")
        if self.evaluator not in EVALUATORS:
            raise ValueError(f"data.evaluator must be one of {', '.join(EVALUATORS)}, got {self.evaluator!r}")

    @property
    def evaluated_side(self) -> int:
        """The short side in evaluation and prediction."""
        if self.eval_short_side is not None:
            return self.eval_short_side
        return max(self.short_side) if isinstance(self.short_side, tuple) else self.short_side


@dataclass
class ScheduleConfig:
    epochs: int = 24
    batch_size: int = 16
    """Images of an optimizer step, over all ranks and parts."""
    accumulate: int = 1
    """Parts that a rank's share of the batch is run in, one after another, to save memory. A step's loss is the mean
    of its parts', each divided by its own count of positives: that of the whole batch if those counts are equal."""
    precision: str = "fp32"
    """"fp32", or autocast to "bf16" or "fp16" (with a loss scale); weights, losses and evaluation stay float32."""
    ema: float | None = None
    """Decay per step of an exponential moving average of the weights, which is then what is evaluated; None: none."""
    optimizer: str = "sgd"
    """"sgd" (momentum 0.9) or "adamw"."""
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    bias_lr_factor: float = 2.0
    """FCOS trains biases at twice the rate and without decay."""
    bias_weight_decay: float = 0.0
    clip_grad: float | None = 35.0
    warmup_iterations: int = 500
    warmup: str = "constant"
    """"constant" or "linear"."""
    warmup_factor: float = 1 / 3
    milestones: tuple[float, ...] | None = None
    """Epochs at which the rate falls to a tenth; None: 8, 11 of 12; as 18, 22 of 24 from 24 on; else as 16, 18
    of 19."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"schedule.{name} must be at least 1, got {getattr(self, name)}")
        if self.clip_grad is not None and not self.clip_grad > 0:
            raise ValueError(f"schedule.clip_grad must be positive or None, got {self.clip_grad}")
        if self.warmup_iterations < 0:
            raise ValueError(f"schedule.warmup_iterations must not be negative, got {self.warmup_iterations}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"schedule.precision must be one of {PRECISIONS}, got {self.precision!r}")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"schedule.ema must be in [0, 1) or None, got {self.ema}")


@dataclass
class RunConfig:
    out: str = "runs/default"
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    """CPU threads; None: torch's own choice."""
    log_every: int = 20
    tensorboard: bool = False
    """Write scalars, and images with their boxes and labels, for TensorBoard; needs mlc-ext[tensorboard]."""
    eval_every: int | None = None
    """Epochs between evaluations; None: only at the end."""
    correlation: bool = True
    """Report the score-IoU correlations at each evaluation."""
    label_images: int | None = None
    """Validation images on which evaluations compare mutual labels with the baseline's
    (mlc_ext.detectors.evaluation.label_statistics); None: none."""
    results: bool = False
    """Write the last evaluation's detections to results.json, in COCO's results format."""
    save_every: int | None = 500
    """Iterations between checkpoints, beside those at evaluations, interruptions and the end; None: only those."""
    keep_checkpoints: int = 3
    """How many of the newest are kept: checkpoint.pt, checkpoint.1.pt, ..."""
    compile: str | None = None
    """torch.compile's backend for backbone, pyramid and head ("inductor"); None: not compiled."""
    channels_last: bool | None = None
    """Memory layout of images, feature maps and weights; None: on CPU, where it is the faster one."""
    tf32: bool = True
    """TF32 in convolutions and matrix products on GPUs that have it."""
    deterministic: bool = False
    """Only deterministic algorithms: the same bits again on a GPU too, or an error."""

    def __post_init__(self) -> None:
        for name in ("log_every", "save_every", "eval_every", "keep_checkpoints", "threads", "label_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"run.{name} must be at least 1, got {value}")


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    mlc: MLCConfig = field(default_factory=MLCConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def milestones(self) -> tuple[float, ...]:
        """Epochs at which the learning rate falls."""
        if self.schedule.milestones is not None:
            return self.schedule.milestones
        epochs = self.schedule.epochs
        first, second, of = (8, 11, 12) if epochs == 12 else (18, 22, 24) if epochs >= 24 else (16, 18, 19)
        return (epochs * first / of, epochs * second / of)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n")
