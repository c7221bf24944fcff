"""Watching a run in TensorBoard: its figures, and images with detections and labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from .. import distributed
from ..models.dense_detector import DenseDetector
from ..models.targets import Target
from .views import look

MAX_IMAGES = 2
"""Images shown of a batch."""


class Watch:
    """Writes a run's events for TensorBoard into `folder`; on ranks other than 0 it does nothing.

    Nothing is written before the first `log_scalars` or `log_images`; its iteration is where a resumed run takes up,
    and TensorBoard hides what an interrupted one had written beyond.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, category_names: Sequence[str]):
        self.folder, self.names = Path(folder), list(category_names)
        self._writer = None
        self._active = distributed.is_main()
        if self._active:
            _writer_class()  # a missing package is reported at the start

    def log_scalars(self, iteration: int, values: Mapping[str, float], group: str = "train") -> None:
        """One point of each curve `group/name`; what is not finite (a metric of nothing) is left out."""
        if not self._active:
            return
        for name, value in values.items():
            if math.isfinite(value):
                self._open(iteration).add_scalar(f"{group}/{name}", float(value), iteration)

    def log_images(
        self, iteration: int, model: DenseDetector, images: Sequence[Tensor], targets: Sequence[Target]
    ) -> None:
        """The first images of a batch (uint8 [3, H, W]) with the model's detections and its labels of both tasks.

        Costs a forward pass of these images. The model, its statistics and the random state are left as they are.
        """
        if not self._active:
            return
        for k, view in enumerate(look(model, images[:MAX_IMAGES], targets[:MAX_IMAGES])):
            picture = np.asarray(view.picture(None if model.class_agnostic else self.names))
            self._open(iteration).add_image(f"images/{k}", picture, iteration, dataformats="HWC")

    def close(self) -> None:
        """Writes out what is pending."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, iteration: int):
        if self._writer is None:
            self._writer = _writer_class()(str(self.folder), purge_step=iteration)
        return self._writer


def _writer_class() -> type:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(f"run.tensorboard needs tensorboard (pip install mlc-ext[tensorboard]): {error}") from error
    return SummaryWriter
