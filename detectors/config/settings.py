"""A run's settings: plain dataclasses. The presets are in presets.py."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field

from mlc_ext import MLCConfig

from .checks import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Range, check_choices, check_numbers, check_texts
from .paper_schedule import milestones

PRECISIONS = ("fp32", "bf16", "fp16")

EVALUATORS = ("pycocotools", "faster_coco_eval")
"""Packages that compute the COCO metrics."""

ASSIGNERS = ("atss", "task_aligned", "sim_ota", "paa", "mal")
"""Rules of label assignment beside the detectors' own."""

CLS_LOSSES = ("focal", "quality_focal", "varifocal")

TOWER_NORMS = ("gn", "gn_bias")

EXTRA_LEVELS = ("c5", "c5_relu", "p5", "p5_relu")

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "efficientnet_lite0")
"""Beside ``timm:NAME``, a model of timm."""

DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,4})?")

_SIDE = Range(1, 65536)


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
    init: str | None = None
    """A trained detector to start from (--init): a checkpoint or the folder of a run, or a file of torchvision's or
    MMDetection's FCOS, RetinaNet, RPN or Faster R-CNN. It replaces model.weights. None: only the backbone may start
    from trained weights."""
    frozen_stages: int | None = None
    """Stages of the backbone that are not trained: 0 none, 1 the stem, 2 the stem and the first stage, ..., 5 all;
    None: 2 with weights or init, else 0."""
    norm: str | None = None
    """Batch norm of the backbone: "bn" is trained, "frozen_bn" keeps its statistics, "fixed" trains nothing of it;
    None: "frozen_bn" with weights or init, else "bn"."""
    style: str = "pytorch"
    """Which convolution of a ResNet's bottleneck has the stride: "pytorch" (the 3x3) or "caffe" (the first 1x1)."""
    fpn_channels: int = 256
    """Channels of the feature pyramid and of the head's towers; a multiple of 32 for heads with group norm (FCOS)."""
    num_convs: int = 4
    """3x3 convolutions in each tower of the head; RPN always has one."""
    tower_norm: str | None = None
    """FCOS, RetinaNet: norm in the towers of the head, "gn" (group norm after convolutions without bias) or "gn_bias"
    (with bias, as torchvision's FCOS); None: "gn" for FCOS, no norm for RetinaNet."""
    extra_levels: str | None = None
    """FCOS, RetinaNet: what P6 is computed from, "c5" or "p5"; "c5_relu" and "p5_relu" have a ReLU between P6 and P7.
    None: "p5_relu" for FCOS, "c5" for RetinaNet."""
    torchvision_anchors: bool = False
    """RetinaNet, RPN: anchors of whole pixels, as torchvision's; not with mmdet1."""
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
    assigner: str | None = None
    """FCOS, RetinaNet: the rule of label assignment, "atss", "task_aligned", "sim_ota", "paa" or "mal"; None: the
    detector's own. Candidates of mutual labeling are then its positives, or with mlc.candidates=all (atss, paa, mal)
    those of the assigner."""
    cls_loss: str = "focal"
    """FCOS, RetinaNet: the classification loss, "focal", or "quality_focal" (GFL) or "varifocal" (VarifocalNet), whose
    target for a positive is the IoU of its box with its gt; with assigner "task_aligned" it is TOOD's normalized
    alignment."""
    mmdet1: bool = False
    """As in MMDetection 1.1: FCOS's normalizer and areas; anchors, box coder and smooth L1 of RetinaNet and RPN."""
    smooth_l1_beta: float | None = None
    """RetinaNet, RPN: where the box loss turns from quadratic to linear; 0 is L1; None: 0, with mmdet1 0.11 (RetinaNet)
    and 1/9 (RPN)."""
    nms: str = "rescored"
    """"rescored" (ranks by score x quality) or "iou" (IoU-Net's, ranks by predicted IoU; needs mlc.iur)."""
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
            tower_norm=TOWER_NORMS,
            extra_levels=EXTRA_LEVELS,
            assigner=ASSIGNERS,
            cls_loss=CLS_LOSSES,
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
        if self.torchvision_anchors and self.mmdet1:
            raise ValueError("model.torchvision_anchors and model.mmdet1 are different anchors, got both")

    @property
    def class_agnostic(self) -> bool:
        """Whether the detector finds objects without their class (RPN): data with any classes can be used."""
        return self.detector == "rpn"


@dataclass(frozen=True)
class DataConfig:
    """Images, annotations and how they are loaded."""

    data: str | None = None
    """Folder of a data set in COCO's format, in any layout of detectors/data/layouts.py; None: one is generated."""
    train_images: str | None = None
    """Folder of the training images; None: found in data.data."""
    train_annotations: str | None = None
    """COCO JSON of the training images; None: found in data.data."""
    val_images: str | None = None
    """Folder of the validation images; None: found in data.data."""
    val_annotations: str | None = None
    """COCO JSON of the validation images; None: found in data.data."""
    val_fraction: float | None = None
    """For data without a validation split: the share of the training images that is held out for validation, for
    example 0.2. A hash of the file names and val_seed chooses them: the choice is the same on every machine, and adding
    images does not change it. None: the data have a validation split."""
    val_seed: int = 0
    """Seed of val_fraction, separate from run.seed: runs of several seeds have the same validation images."""
    categories: tuple[str, ...] | None = None
    """Names of the categories to train and evaluate on: "person, car", or a YAML list in which names with commas, and
    names such as none, are quoted: '["car (parked)", "lamp, desk", "none"]'. None (as text "~"): all."""
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
            val_fraction=Range(0, 1, low_open=True, high_open=True),
            val_seed=Range(0, 2**63 - 1),
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
    """Increasing epochs at which the learning rate falls to a tenth; None: 8 and 11 of 12; 18 and 22 of 24, in
    proportion for more; for other lengths in proportion to 16 and 18 of 19."""

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

    def to_json(self) -> str:
        """The text of a run's config.json."""
        return json.dumps(self.to_dict(), indent=2) + "\n"
