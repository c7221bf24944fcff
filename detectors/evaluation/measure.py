"""A detector's outputs on a data set, measured: COCO metrics and score-IoU correlations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset
from tqdm import tqdm

from mlc_ext import Divergence, PredictionWriter

from .. import distributed, interrupts
from ..config.settings import Config
from ..data.coco.dataset import CocoDetection
from ..data.loading.loader import build_loader
from ..models.dense_detector import DenseDetector
from ..runs.files import write_whole
from ..runs.load import Loaded, load_for_evaluation
from .coco_metrics import CocoEvaluator, ProposalEvaluator


def to_original(detections: dict[str, Tensor], size: tuple[int, int], original: tuple[int, int]) -> dict[str, Tensor]:
    """Detections on a resized image (H, W) as boxes in pixels of the original (H, W), on the CPU."""
    boxes = boxes_in_original(detections["boxes"].cpu(), size, original)
    return {"boxes": boxes, "labels": detections["labels"].cpu(), "scores": detections["scores"].cpu()}


def boxes_in_original(boxes: Tensor, size: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """[N, 4] boxes on a resized image (H, W) in pixels of the original (H, W)."""
    return boxes * boxes.new_tensor([original[1] / size[1], original[0] / size[0]] * 2)


@dataclass
class Measured:
    """A detector's outputs on a data set, gathered for the metrics."""

    evaluator: CocoEvaluator | ProposalEvaluator
    divergence: Divergence | None
    """None without correlations."""

    def metrics(self) -> dict[str, float]:
        """As :func:`evaluate` returns them."""
        metrics = self.evaluator.summarize()
        if self.divergence is None:
            return metrics
        found = self.divergence.compute()
        return metrics | {
            "correlation": found["per_gt"],
            "correlation_pooled": found["pooled"],
            "correlation_gts": found["per_gt_count"],
            "correlation_skipped": found["per_gt_skipped"],
        }


def evaluate(
    model: DenseDetector, dataset: CocoDetection, *, results: Path | None = None, **options: Any
) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl (0..1) on ``dataset``, and with ``correlation`` the divergence metric.

    Proposals (``model.class_agnostic``) are measured by ``AR@100``, ``AR@300``, ``AR@1000``, all classes as one.

    ``correlation`` is protocol (a), the mean over gts of the rank correlation of their 50 best predictions;
    ``correlation_pooled`` is protocol (b) (mlc_ext.divergence). ``results`` is a file that gets the detections in
    COCO's results format; ``options`` are :func:`measure`'s.

    Several ranks take every n-th image each and return the same metrics of all, each image counted once.
    """
    return _metrics(measure(model, dataset, **options), results)


def _metrics(measured: Measured, results: Path | None) -> dict[str, float]:
    """The metrics on every rank; rank 0 computes them and writes the detections."""
    if not distributed.is_main():
        return distributed.broadcast({})
    metrics = measured.metrics()
    if results is not None:
        write_whole(results, json.dumps(measured.evaluator.results()))
    return distributed.broadcast(metrics)


def make_evaluator(
    model: DenseDetector, dataset: CocoDetection, backend: str = "pycocotools"
) -> CocoEvaluator | ProposalEvaluator:
    """The evaluator of a detector's outputs; ``backend`` is ``data.evaluator``."""
    kind = ProposalEvaluator if model.class_agnostic else CocoEvaluator
    return kind(dataset, backend=backend)


@torch.no_grad()
def measure(
    model: DenseDetector,
    dataset: CocoDetection,
    *,
    batch_size: int,
    device: torch.device,
    workers: int = 0,
    correlation: bool = True,
    backend: str = "pycocotools",
    progress: bool = True,
    writer: PredictionWriter | None = None,
) -> Measured:
    """Runs the detector on ``dataset``, every rank on its share; all ranks get the outputs of all.

    ``batch_size`` is a rank's, ``backend`` is ``data.evaluator``. ``writer`` takes the rank's predictions before NMS,
    with ``correlation`` alone.
    """
    was_training = model.training
    model.eval()
    evaluator = make_evaluator(model, dataset, backend)
    divergence, measured = Divergence(), set()
    for images, targets in tqdm(
        _my_batches(dataset, batch_size, workers), desc="evaluating", leave=False, disable=not progress
    ):
        interrupts.check()
        images = [image.to(device, non_blocking=True) for image in images]
        detections, predictions = model.detect(images, with_predictions=correlation)
        originals = [
            to_original(found, tuple(image.shape[-2:]), target["orig_size"])
            for found, image, target in zip(detections, images, targets, strict=True)
        ]
        evaluator.update([target["image_id"] for target in targets], originals)
        for image, prediction, target in zip(images, predictions, targets, strict=False):  # none without correlation
            if target["image_id"] in measured:
                continue  # it stands in for a broken image
            measured.add(target["image_id"])
            gts = {key: target[key].to(device) for key in ("boxes", "labels", "iscrowd")}
            if model.class_agnostic:
                gts["labels"] = torch.ones_like(gts["labels"])
            divergence.update(prediction, gts)
            if writer is not None:
                sizes = tuple(image.shape[-2:]), target["orig_size"]
                scaled = [{**part, "boxes": boxes_in_original(part["boxes"], *sizes)} for part in (prediction, gts)]
                writer.update(target["image_id"], *scaled)
    model.train(was_training)
    evaluator.synchronize()
    whole = Divergence()
    for state in distributed.gather(divergence.state_dict()):
        whole.merge(Divergence.from_state_dict(state))
    return Measured(evaluator, whole if correlation else None)


def rank_batch(config: Config) -> int:
    """Images that a rank holds at a time in training."""
    return max(1, config.schedule.batch_size // (distributed.world_size() * config.schedule.accumulate))


def _my_batches(dataset: CocoDetection, batch_size: int, workers: int) -> Iterable:
    """This rank's share of the images."""
    if distributed.world_size() == 1:
        return build_loader(dataset, batch_size, shuffle=False, num_workers=workers)
    mine = range(distributed.rank(), len(dataset), distributed.world_size())
    if not mine:
        return ()
    return build_loader(Subset(dataset, mine), batch_size, shuffle=False, num_workers=workers)


def measure_loaded(loaded: Loaded, batch_size: int | None = None, **options: Any) -> Measured:
    """:func:`measure` of a loaded detector on its data set; ``batch_size`` None is the run's."""
    settings = {
        "batch_size": rank_batch(loaded.config) if batch_size is None else batch_size,
        "workers": loaded.config.data.workers,
        "backend": loaded.config.data.evaluator,
    }
    return measure(loaded.model, loaded.dataset, device=loaded.device, **(settings | options))


def prediction_writer(loaded: Loaded) -> PredictionWriter:
    """For :func:`measure_loaded`, with the category ids of the data set."""
    return PredictionWriter({1: 1} if loaded.model.class_agnostic else loaded.dataset.label_to_category)


def evaluate_checkpoint(
    path: Path,
    data: str | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    *,
    results: Path | None = None,
    settings: Sequence[str] = (),
) -> dict[str, float]:
    """:func:`evaluate` of a run's checkpoint on the validation set of ``data``, or of the run.

    ``path`` is the file, or the run's folder: its best.pt, or without one its newest usable checkpoint.
    ``settings`` are KEY=VALUE texts, laid over the run's configuration.

    Raises ValueError or FileNotFoundError for a checkpoint or data that cannot be used.
    """
    return _metrics(measure_loaded(load_for_evaluation(path, data, device, settings=settings), batch_size), results)
