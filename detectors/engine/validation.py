"""The evaluations of a run in training."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import Subset

from .. import distributed
from ..config.settings import Config
from ..data.coco.dataset import CocoDetection
from ..data.loading.loader import build_loader
from ..evaluation.label_statistics import label_statistics
from ..evaluation.measure import evaluate, rank_batch
from ..models.dense_detector import DenseDetector


def validate(
    config: Config, model: DenseDetector, dataset: CocoDetection, device: torch.device, out: Path, *, progress: bool
) -> dict[str, float]:
    """The metrics of ``model`` on ``dataset``, with label statistics if ``run.label_images`` asks for them.

    All ranks call it and get the same metrics. With ``run.results`` the detections are written to ``out``.
    """
    distributed.share_buffers(model)
    metrics = evaluate(
        model,
        dataset,
        batch_size=rank_batch(config),
        device=device,
        workers=config.data.workers,
        correlation=config.run.correlation,
        backend=config.data.evaluator,
        results=out / "results.json" if config.run.results else None,
        progress=progress,
    )
    if config.run.label_images is None:
        return metrics
    found = None
    if distributed.is_main():  # alone, while the others wait: the images are few
        images = Subset(dataset, range(min(config.run.label_images, len(dataset))))
        found = label_statistics(model, build_loader(images, rank_batch(config), shuffle=False), device)
    return metrics | distributed.broadcast(found)
