"""A run's settings: plain dataclasses. The presets are in presets.py."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from mlc_ext.mutual_labeling import MLCConfig

from .checks import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Range, check_choices, check_numbers, check_texts
from .paper_schedule import milestones

PRECISIONS = ("fp32", "bf16", "fp16")

EVALUATORS = ("pycocotools", "faster_coco_eval")
"""Packages that compute the COCO metrics."""

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "efficientnet_lite0")
"""Beside ``timm:NAME``, a model of timm."""

DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,4})?")

_SIDE = Range(1, 65536)


@dataclass(frozen=True)
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
    mmdet1: bool = False
    """As in MMDetection 1.1: FCOS's normalizer and areas; anchors, box coder and smooth L1 of RetinaNet and RPN."""
    smooth_l1_beta: float | None = None
    """RetinaNet, RPN: of the box loss; 0 is L1; None: 0, with model.mmdet1 0.11 and 1/9."""
    nms: str = "rescored"
    """"rescored" (by score x quality) or "iou" (IoU-Net's, by predicted IoU; needs mlc.iur)."""
    nms_threshold: float | None = None
    """IoU above which a box is dropped, in 0..1; None: 0.5, RPN 0.7."""

    def __post_init__(self) -> None:
        check_texts("model", self)
        check_choices(
            "model",
            self,
            detector=("fcos", "fcos-", "retinanet", "rpn"),
            norm=("bn", "frozen_bn", "fixed"),
            style=("pytorch", "caffe"),
            box_loss=("iou", "giou", "linear_iou"),
            centerness_on=("cls", "reg"),
            nms=("rescored", "iou"),
        )
        if self.backbone not in BACKBONES and not re.fullmatch(r"timm:\S+", self.backbone):
            names = ", ".join(map(repr, (*BACKBONES, "timm:NAME")))
            raise ValueError(f"model.backbone must be one of {names}, got {self.backbone!r}")
        check_numbers(
            "model",
            self,
            frozen_stages=Range(0, 5),
            fpn_channels=Range(1, 8192),
            num_convs=Range(1, 100),
            center_sampling_radius=POSITIVE,
            smooth_l1_beta=NOT_NEGATIVE,
            nms_threshold=SHARE,
        )


@dataclass(frozen=True)
class DataConfig:
    data: str | None = None
    """Folder of a COCO-format data set; None: the generated one."""
    train_images: str | None = None
    train_annotations: str | None = None
    val_images: str | None = None
    val_annotations: str | None = None
    categories: tuple[str, ...] | None = None
    """Names of the categories to train and evaluate on: "person, car", or a YAML list whose quotes keep commas, brackets
    and words such as none: '["car (parked)", "lamp, desk", "none"]'. None (as text "~"): all."""
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
        if self.short_side == ():
            raise ValueError("data.short_side must be a side or several, got none")
        check_texts("data", self)
        check_choices("data", self, evaluator=EVALUATORS)
        check_numbers(
            "data",
            self,
            short_side=_SIDE,
            long_side=_SIDE,
            eval_short_side=_SIDE,
            flip=SHARE,
            limit_train=COUNT,
            workers=Range(0, 1024),
            generated_images=Range(1, 1_000_000),
            generated_size=Range(48, 4096),
        )
        if self.categories == ():
            raise ValueError("data.categories must be names or None, got none")
        if self.categories is not None and len(set(self.categories)) != len(self.categories):
            raise ValueError(f"data.categories names a category twice: {self.categories!r}")

    @property
    def evaluated_side(self) -> int:
        """The short side in evaluation and prediction."""
        if self.eval_short_side is not None:
            return self.eval_short_side
        return max(self.short_side) if isinstance(self.short_side, tuple) else self.short_side


@dataclass(frozen=True)
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
    """What the rate is multiplied by when the warm-up begins, in 0..1."""
    milestones: tuple[float, ...] | None = None
    """Increasing epochs at which the rate falls to a tenth; None: 8, 11 of 12; as 18, 22 of 24 from 24 on; else as 16, 18
    of 19."""

    def __post_init__(self) -> None:
        check_choices("schedule", self, precision=PRECISIONS, optimizer=("sgd", "adamw"), warmup=("constant", "linear"))
        check_numbers(
            "schedule",
            self,
            epochs=Range(1, 1_000_000),
            batch_size=Range(1, 1_000_000),
            accumulate=COUNT,
            ema=Range(0, 1, high_open=True),
            lr=POSITIVE,
            momentum=Range(0, 1, high_open=True),
            weight_decay=NOT_NEGATIVE,
            bias_lr_factor=NOT_NEGATIVE,
            bias_weight_decay=NOT_NEGATIVE,
            clip_grad=POSITIVE,
            warmup_iterations=NOT_NEGATIVE,
            warmup_factor=SHARE,
            milestones=POSITIVE,
        )
        if self.milestones is not None and list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"schedule.milestones must increase, got {self.milestones}")


@dataclass(frozen=True)
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
        check_texts("run", self)
        if not DEVICE.fullmatch(self.device):
            raise ValueError(f"run.device must be cpu, cuda, cuda:N or auto, got {self.device!r}")
        check_numbers(
            "run",
            self,
            seed=Range(0, 2**63 - 1),
            threads=Range(1, 4096),
            log_every=COUNT,
            eval_every=COUNT,
            label_images=COUNT,
            save_every=COUNT,
            keep_checkpoints=COUNT,
        )


@dataclass(frozen=True)
class Config:
    """All settings of a run, in sections."""

    model: ModelConfig = field(default_factory=ModelConfig)
    mlc: MLCConfig = field(default_factory=MLCConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def milestones(self) -> tuple[float, ...]:
        """Epochs at which the learning rate falls."""
        if self.schedule.milestones is not None:
            return self.schedule.milestones
        return milestones(self.schedule.epochs)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n")
