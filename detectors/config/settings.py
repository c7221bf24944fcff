"""A run's settings: plain dataclasses. The presets are in presets.py."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from mlc_ext import MLCConfig

from .paper_schedule import milestones

PRECISIONS = ("fp32", "bf16", "fp16")

EVALUATORS = ("pycocotools", "faster_coco_eval")
"""Packages that compute the COCO metrics."""


@dataclass(frozen=True)
class ModelConfig:
    """The detector: backbone, pyramid, head, losses and NMS."""

    detector: str = "fcos-"
    """"fcos-" (without centerness), "fcos", "retinanet" or "rpn"."""
    backbone: str = "resnet50"
    """"resnet18", "resnet34", "resnet50", "resnet101", "efficientnet_lite0" or "timm:NAME"."""
    weights: str | None = None
    """ImageNet weights to start from: the path of a file of torchvision's, "imagenet" for the weights in the package of
    efficientnet_lite0 or of timm, or None for random weights."""
    frozen_stages: int | None = None
    """Stages of the backbone that are not trained: 0 none, 1 the stem, 2 the stem and the first stage, ..., 5 all;
    None: 2 with weights, else 0."""
    norm: str | None = None
    """Batch norm of the backbone: "bn" is trained, "frozen_bn" keeps its statistics, "fixed" trains nothing of it;
    None: "frozen_bn" with weights, else "bn"."""
    style: str = "pytorch"
    """Which convolution of a ResNet's bottleneck has the stride: "pytorch" (the 3x3) or "caffe" (the first 1x1)."""
    fpn_channels: int = 256
    """Channels of the feature pyramid and of the head's towers; a multiple of 32 for heads with group norm (FCOS)."""
    num_convs: int = 4
    """3x3 convolutions in each tower of the head; RPN always has one."""
    box_loss: str = "iou"
    """FCOS: "iou" (-log IoU), "giou" or "linear_iou"."""
    center_sampling_radius: float | None = None
    """FCOS: only points within this distance of a gt's center, in strides, are positive; None: all points inside the
    box."""
    norm_on_bbox: bool = False
    """FCOS: regress distances in units of the stride, without the exponential."""
    centerness_on: str = "cls"
    """FCOS: the tower that predicts centerness, "cls" or "reg"."""
    centerness_weights: bool | None = None
    """FCOS: weigh the box loss by centerness; None: if centerness is predicted."""
    mmdet1: bool = False
    """As in MMDetection 1.1: FCOS's normalizer and areas; anchors, box coder and smooth L1 of RetinaNet and RPN."""
    smooth_l1_beta: float | None = None
    """RetinaNet, RPN: where the box loss turns from quadratic to linear; 0 is L1; None: 0, with mmdet1 0.11 (RetinaNet)
    and 1/9 (RPN)."""
    nms: str = "rescored"
    """"rescored" (ranks by score x quality) or "iou" (IoU-Net's, ranks by predicted IoU; needs mlc.iur)."""
    nms_threshold: float | None = None
    """IoU above which a box is dropped, in 0..1; None: 0.5, RPN 0.7."""


@dataclass(frozen=True)
class DataConfig:
    """Images, annotations and how they are loaded."""

    data: str | None = None
    """Folder of a data set in COCO's format; None: one is generated."""
    train_images: str | None = None
    """Folder of the training images; None: found in data.data."""
    train_annotations: str | None = None
    """COCO JSON of the training images; None: found in data.data."""
    val_images: str | None = None
    """Folder of the validation images; None: found in data.data."""
    val_annotations: str | None = None
    """COCO JSON of the validation images; None: found in data.data."""
    categories: tuple[str, ...] | None = None
    """Names of the categories to train and evaluate on ("person,car"); None: all."""
    short_side: int | tuple[int, ...] = 800
    """Length in pixels that the short side is resized to. Several (480,640,800) are multi-scale training: each image
    draws one."""
    long_side: int = 1333
    """Upper limit of the long side in pixels; an image that would exceed it is resized to this long side instead."""
    eval_short_side: int | None = None
    """Short side in evaluation and prediction, in pixels; None: the largest of short_side."""
    flip: float = 0.5
    """Probability of a horizontal flip in training, in 0..1."""
    limit_train: int | None = None
    """Number of training images to use, the first by id (for overfitting checks); None: all."""
    val_is_train: bool = False
    """Evaluate on the training images (overfitting checks)."""
    keep_empty: bool = True
    """Keep training images without boxes: all of their priors are background."""
    strict: bool = False
    """Raise an error for a missing, malformed or broken image; otherwise it is left out and reported."""
    verify: bool = False
    """Decode every image once before training and leave out the broken ones."""
    cache: bool = False
    """Keep all image files in memory, encoded."""
    workers: int = 0
    """Processes that load images; 0: the training process loads them."""
    evaluator: str = "pycocotools"
    """"pycocotools", or "faster_coco_eval" (the same metrics in less time; pycocotools is used if it is not
    installed)."""
    generated_images: int = 320
    """Training images of the generated set; a quarter as many are added for validation."""
    generated_size: int = 160
    """Side of the generated images, in pixels."""

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


@dataclass(frozen=True)
class ScheduleConfig:
    """Optimizer, learning rate and batch."""

    epochs: int = 24
    """Length of the training, in epochs."""
    batch_size: int = 16
    """Images per optimizer step, over all ranks and parts."""
    accumulate: int = 1
    """Parts that a rank's share of the batch is divided into, run one after another to save memory. The loss of a step
    is the mean over its parts, each divided by its own number of positives: the loss of the whole batch if those are
    equal."""
    precision: str = "fp32"
    """"fp32", or autocast to "bf16" or "fp16" (with a loss scale); weights, losses and evaluation stay float32."""
    ema: float | None = None
    """Decay per step of an exponential moving average of the weights, in [0, 1); the average is evaluated. None: no
    average."""
    optimizer: str = "sgd"
    """"sgd" or "adamw"."""
    lr: float = 0.01
    """Learning rate of the weights after the warm-up."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay of the weights, and with SGD of the norm layers."""
    bias_lr_factor: float = 2.0
    """Factor on the learning rate of convolutions' biases: 2 in FCOS."""
    bias_weight_decay: float = 0.0
    """Weight decay of convolutions' biases: 0 in FCOS."""
    clip_grad: float | None = 35.0
    """Upper limit of the gradient's L2 norm; a longer one is scaled down. None: no limit."""
    warmup_iterations: int = 500
    """Iterations of the warm-up; 0: none."""
    warmup: str = "constant"
    """Learning rate in the warm-up: "constant" (warmup_factor x lr) or "linear" (from there to lr)."""
    warmup_factor: float = 1 / 3
    """Factor on the learning rate at the beginning of the warm-up, in 0..1."""
    milestones: tuple[float, ...] | None = None
    """Epochs at which the learning rate falls to a tenth; None: 8 and 11 of 12; 18 and 22 of 24, in proportion for
    more; for other lengths in proportion to 16 and 18 of 19."""

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


@dataclass(frozen=True)
class RunConfig:
    """What a run writes and how it is computed."""

    out: str = "runs/default"
    """Folder of the run: checkpoints, metrics and log."""
    seed: int = 0
    """Seed of the weights, the order of the images, flips and sampling."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:N", or "auto": a GPU if there is one."""
    threads: int | None = None
    """CPU threads of PyTorch; None: PyTorch's default."""
    log_every: int = 20
    """Iterations between log entries; each entry makes the host wait for the device."""
    tensorboard: bool = False
    """Write scalars, and images with their boxes and labels, for TensorBoard; needs mlc-ext[tensorboard]."""
    eval_every: int | None = None
    """Epochs between evaluations; None: only at the end."""
    correlation: bool = True
    """Report the score-IoU correlations at each evaluation."""
    label_images: int | None = None
    """Number of validation images on which evaluations compare mutual labels with the baseline's
    (mlc_ext.detectors.evaluation.label_statistics); None: no comparison."""
    results: bool = False
    """Write the detections of the last evaluation to results.json, in COCO's results format."""
    save_every: int | None = 500
    """Iterations between checkpoints, in addition to those at evaluations, at interruptions and at the end; None: only
    those."""
    keep_checkpoints: int = 3
    """Number of checkpoints that are kept: checkpoint.pt, checkpoint.1.pt, ...; older ones are deleted."""
    compile: str | None = None
    """Backend of torch.compile for backbone, pyramid and head, for example "inductor"; None: not compiled."""
    channels_last: bool | None = None
    """Memory layout of images, feature maps and weights: channels_last or contiguous; None: channels_last on CPU, where
    it is faster."""
    tf32: bool = True
    """Use TF32 in convolutions and matrix products on GPUs that have it."""
    deterministic: bool = False
    """Use only deterministic algorithms: repeated runs on a GPU are equal bit for bit; an operation without such an
    algorithm raises an error."""

    def __post_init__(self) -> None:
        for name in ("log_every", "save_every", "eval_every", "keep_checkpoints", "threads", "label_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"run.{name} must be at least 1, got {value}")


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
