"""Settings of what a run writes and how it is computed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..checks import COUNT, Range, check_choices, check_numbers, check_texts

DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,4})?")

BOX_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")
"""Metrics of detections."""
PROPOSAL_METRICS = ("AR@100", "AR@300", "AR@1000", "ARs", "ARm", "ARl")
"""Metrics of proposals (RPN)."""


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
    best_metric: str | None = None
    """Metric by which the best evaluation's checkpoint is kept as best.pt, which is then the detector that the run's
    folder stands for (evaluate, predict, export, report, --init): "AP", "AP50", another one of COCO's, or of proposals
    "AR@1000" and its like; None: no best.pt."""
    patience: int | None = None
    """The training ends after this number of evaluations in a row without a better best_metric (needs eval_every).
    Only evaluations after the start of mutual labeling and IoU rescoring count (mlc.start_epoch, mlc.iur_start_epoch).
    Ignored with --compare. None: the training always has schedule.epochs epochs."""
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
        check_choices("run", self, best_metric=BOX_METRICS + PROPOSAL_METRICS)
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
            patience=COUNT,
        )
