"""A trained detector on a validation set: COCO AP and the score-IoU correlations.

    python detectors/evaluate.py runs/demo/checkpoint.pt [--data DIR]
    torchrun --nproc-per-node 8 detectors/evaluate.py runs/demo/checkpoint.pt

Where the run kept averaged weights (schedule.ema), those are evaluated.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a file: Python has put detectors/ itself on the path, not the folder above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor
from torch.utils.data import Subset
from tqdm import tqdm

from mlc_ext.detectors import distributed, numerics
from mlc_ext.detectors.checkpoint import as_misfit, load_checkpoint, trained_weights
from mlc_ext.detectors.config import Config, assign, from_dict, override
from mlc_ext.detectors.data.coco import CocoDetection
from mlc_ext.detectors.data.evaluation import CocoEvaluator, ProposalEvaluator
from mlc_ext.detectors.data.loader import DataError, build_loader, death_of_worker
from mlc_ext.detectors.dense import DenseDetector
from mlc_ext.detectors.metrics_log import report, write_whole
from mlc_ext.divergence import Divergence


def to_original(detections: dict[str, Tensor], size: tuple[int, int], original: tuple[int, int]) -> dict[str, Tensor]:
    """Detections on a resized image (H, W) as boxes in pixels of the original (H, W), on the CPU."""
    scale = [original[1] / size[1], original[0] / size[0]] * 2
    boxes = detections["boxes"].cpu() * torch.tensor(scale)
    return {"boxes": boxes, "labels": detections["labels"].cpu(), "scores": detections["scores"].cpu()}


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

    Proposals (``model.class_agnostic``) are measured by AR@100, AR@300, AR@1000, all classes as one.

    ``correlation`` is protocol (a), the mean over gts of the rank correlation of their 50 best predictions;
    ``correlation_pooled`` is protocol (b) (mlc_ext.divergence). ``results`` is a file that gets the detections in
    COCO's results format; ``options`` are :func:`measure`'s.

    Several ranks take every n-th image each and return the same metrics of all, each image counted once.
    """
    measured = measure(model, dataset, **options)
    if not distributed.is_main():
        return distributed.broadcast({})
    if results is not None:
        write_whole(results, json.dumps(measured.evaluator.results()))
    return distributed.broadcast(measured.metrics())


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
) -> Measured:
    """Runs the detector on ``dataset``, every rank on its share; all ranks get the outputs of all.

    ``batch_size`` is a rank's, ``backend`` is ``data.evaluator``.
    """
    was_training = model.training
    model.eval()
    kind = ProposalEvaluator if model.class_agnostic else CocoEvaluator
    evaluator = kind(dataset, backend=backend)
    divergence, measured = Divergence(), set()
    for images, targets in tqdm(
        _my_batches(dataset, batch_size, workers), desc="evaluating", leave=False, disable=not progress
    ):
        images = [image.to(device, non_blocking=True) for image in images]
        detections, predictions = model.detect(images, with_predictions=correlation)
        originals = [
            to_original(found, tuple(image.shape[-2:]), target["orig_size"])
            for found, image, target in zip(detections, images, targets, strict=True)
        ]
        evaluator.update([target["image_id"] for target in targets], originals)
        for prediction, target in zip(predictions, targets, strict=False):  # none without correlation
            if target["image_id"] in measured:
                continue  # it stands in for a broken image
            measured.add(target["image_id"])
            gts = {key: target[key].to(device) for key in ("boxes", "labels", "iscrowd")}
            if model.class_agnostic:
                gts["labels"] = torch.ones_like(gts["labels"])
            divergence.update(prediction, gts)
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


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt of a run")
    parser.add_argument("--data", help="COCO-format folder; default: the one the run was trained on")
    parser.add_argument("--batch-size", type=int, help="images at a time; default: the run's")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the detections in COCO's results format")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting that is not the "
                        "run's, repeatable: model.nms=iou, model.nms_threshold=0.6, data.eval_short_side=640")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        with distributed.session(options.device):
            metrics = evaluate_checkpoint(
                options.checkpoint,
                options.data,
                options.batch_size,
                options.device,
                results=options.results,
                settings=options.set,
            )
            if distributed.is_main():
                print(report(metrics))
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError, DataError) as error:
        if distributed.is_main() or not isinstance(error, distributed.SetupError):
            print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if (died := death_of_worker(error)) is None:
            raise
        print(f"evaluate.py: {died}", file=sys.stderr)
        return 2
    return 0


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

    ``settings`` are KEY=VALUE texts, laid over the run's configuration.

    Raises ValueError or FileNotFoundError for a checkpoint or data that cannot be used.
    """
    loaded = load_for_evaluation(path, data, device, settings=settings)
    return evaluate(
        loaded.model,
        loaded.dataset,
        batch_size=rank_batch(loaded.config) if batch_size is None else batch_size,
        device=loaded.device,
        workers=loaded.config.data.workers,
        backend=loaded.config.data.evaluator,
        results=results,
    )


class Loaded(NamedTuple):
    """A run's detector, ready to be evaluated."""

    model: DenseDetector
    dataset: CocoDetection
    config: Config
    device: torch.device
    iteration: int
    """Of the checkpoint."""


def load_for_evaluation(
    path: Path, data: str | None = None, device: str = "auto", *, settings: Sequence[str] = ()
) -> Loaded:
    """The detector of a checkpoint with its validation set; arguments and errors are :func:`evaluate_checkpoint`'s."""
    from mlc_ext.detectors.builder import CACHE, build_model, build_validation_set, verify

    with distributed.together():
        state = load_checkpoint(path)
        config = override(from_dict(state["config"]), "model.weights", None)  # the checkpoint brings its own
        if data:
            config = override(config, "data.data", data)
            for name in ("train_images", "train_annotations", "val_images", "val_annotations"):
                config = override(config, f"data.{name}", None)  # the run's own: they would come first
        config = assign(config, settings)
        target = distributed.pick_device(device)
        dataset = build_validation_set(config, CACHE)
        if dataset.num_classes != state["num_classes"]:
            raise ValueError(
                f"{dataset.annotation_file} has {dataset.num_classes} categories, the checkpoint was trained on "
                f"{state['num_classes']}"
            )
        known = state.get("category_ids")
        if known is not None and known != list(dataset.label_to_category.values()):
            raise ValueError(f"{dataset.annotation_file} has other category ids than the data of the checkpoint")
        model = build_model(config, dataset.num_classes)
        with as_misfit(path):
            model.load_state_dict(trained_weights(state))
        model.set_epoch(state["loader"]["epoch"] if "loader" in state else config.schedule.epochs)
        numerics.set_memory_layout(model.to(target), config.run)
    verify(config, dataset)
    return Loaded(model, dataset, config, target, state["iteration"])


if __name__ == "__main__":
    distributed.end_program(main())
