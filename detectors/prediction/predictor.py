"""A checkpoint's detector as a function of an image."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .. import distributed
from ..config.settings import Config
from ..data.build import evaluation_transforms
from ..evaluation.measure import to_original
from ..models.dense_detector import DenseDetector
from ..runs.checkpoint import load_checkpoint
from ..runs.load import trained_config, trained_detector


class Predictor:
    """A checkpoint's detector with the preprocessing it is evaluated with.

    Attributes:
        names: class names by label; `names[l - 1]` is label l's.
        category_ids: COCO's ids of the classes, likewise.
    """

    def __init__(self, checkpoint: Path, device: str = "auto"):
        """Raises FileNotFoundError or ValueError for a checkpoint, or a device, that cannot be used."""
        state = load_checkpoint(checkpoint)
        self.config: Config = trained_config(state)
        self.device = distributed.pick_device(device)
        self.model: DenseDetector = trained_detector(checkpoint, state, self.config, self.device).eval()
        self.transforms = evaluation_transforms(self.config)
        numbers = list(range(1, state["num_classes"] + 1))
        self.names: list[str] = state.get("categories") or list(map(str, numbers))
        self.category_ids: list[int] = (
            state.get("category_ids") or numbers
        )  # the checkpoint may be without category ids
        if self.model.class_agnostic:
            self.names, self.category_ids = ["object"], [1]

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """uint8 [3, H, W] -> `boxes` [n, 4] xyxy pixels of this image, `labels` [n], `scores` [n], best first."""
        size = tuple(image.shape[-2:])
        empty = {"boxes": torch.zeros(0, 4), "area": torch.zeros(0)}
        resized, _ = self.transforms(image, empty)
        detections, _ = self.model.detect([resized.to(self.device)])
        return to_original(detections[0], tuple(resized.shape[-2:]), size)
