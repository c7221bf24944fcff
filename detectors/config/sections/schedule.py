"""Settings of the optimizer, the learning rate and the batch."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Range, check_choices, check_numbers

PRECISIONS = ("fp32", "bf16", "fp16")


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
    kind: str = "step"
    """Learning rate after the warm-up: "step" (a tenth at each milestone) or "cosine" (half a cosine, from lr down to
    end_factor x lr at the end of the training)."""
    end_factor: float = 0.0
    """Cosine: factor on the learning rate at the end, in 0..1."""
    milestones: tuple[float, ...] | None = None
    """Step: increasing epochs at which the learning rate falls to a tenth; None: 8 and 11 of 12; 18 and 22 of 24, in
    proportion for more; for other lengths in proportion to 16 and 18 of 19."""

    def __post_init__(self) -> None:
        check_choices(
            "schedule",
            self,
            precision=PRECISIONS,
            optimizer=("sgd", "adamw"),
            warmup=("constant", "linear"),
            kind=("step", "cosine"),
        )
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
            end_factor=SHARE,
            milestones=POSITIVE,
        )
        if self.milestones is not None and list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"schedule.milestones must increase, got {self.milestones}")
