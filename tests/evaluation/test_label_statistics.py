"""Counts of where mutual labels and the baseline's differ: against loops over the labels themselves."""

import math

import pytest
import torch
from small_runs import config_of
from whole_models import BATCHES, DETECTORS, IMAGES, NOTHING, build

from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.evaluation.label_statistics import label_statistics
from mlc_ext.detectors.models.targets import prepare_targets

CPU = torch.device("cpu")


def counted(model, images, targets):
    """The definitions, prior by prior."""
    outputs, sizes, _ = model.eval().head_outputs(images)
    objects = prepare_targets(targets, len(images), CPU, model.num_classes)
    before = model.label(outputs, sizes, objects, mutual=False)
    after = model.label(outputs, sizes, objects, mutual=True)
    old = {k for k, label in enumerate(before.task.cls_labels.tolist()) if label > 0}
    new = {
        "cls": {k for k, label in enumerate(after.task.cls_labels.tolist()) if label > 0},
        "loc": {k for k, positive in enumerate(after.task.loc_positive.tolist()) if positive},
    }
    ious = before.task.ious.tolist()
    candidates = sum(gt >= 0 for gt in before.assignment.candidate_gt.tolist())

    def mean(chosen):
        return sum(ious[k] for k in chosen) / len(chosen) if chosen else math.nan

    gts = sum(len(target["boxes"]) for target in objects)
    found = {
        "labels_consensus": len(new["cls"] & new["loc"]) / len(new["cls"] | new["loc"]),
        "labels_per_gt_baseline": len(old) / gts,
        "labels_iou_baseline": mean(old),
    }
    for task, now in new.items():
        found |= {
            f"labels_flipped_{task}": len(old ^ now) / candidates,
            f"labels_per_gt_{task}": len(now) / gts,
            f"labels_iou_{task}": mean(now),
            f"labels_iou_gained_{task}": mean(now - old),
            f"labels_iou_lost_{task}": mean(old - now),
        }
    return found


@pytest.mark.parametrize("detector", DETECTORS)
def test_equals_a_loop_and_leaves_the_model_alone(detector):
    model = build(detector).train()
    model.set_epoch(0.5)
    with torch.no_grad():
        wanted = counted(model, IMAGES, BATCHES[0])
    model.train()
    found = label_statistics(model, [(IMAGES, BATCHES[0]), (IMAGES, [NOTHING, NOTHING])], CPU)
    assert found == pytest.approx(wanted, nan_ok=True) and found.keys() == wanted.keys()
    assert 0 < found["labels_flipped_cls"] <= 1 and model.training and model.epoch == 0.5


def test_over_several_batches_it_is_that_of_all():
    model, images = build("fcos-"), [torch.rand(3, 96, 96) for _ in range(2)]  # of one size: padding is seen
    whole = label_statistics(model, [(images, BATCHES[0])], CPU)
    parts = [([image], [target]) for image, target in zip(images, BATCHES[0], strict=True)]
    assert label_statistics(model, parts, CPU) == pytest.approx(whole, rel=1e-3, nan_ok=True)


def test_without_objects():
    found = label_statistics(build("fcos-"), [(IMAGES, [NOTHING, NOTHING])], CPU)
    assert all(math.isnan(value) for value in found.values())


def test_in_a_run(tmp_path):
    trainer = Trainer(config_of("fcos_minus_r50_mlc", tmp_path, 1, run__label_images=100), progress=False)
    metrics = trainer.run()
    assert 0 <= metrics["labels_consensus"] <= 1 and metrics["labels_per_gt_baseline"] > 0
    assert metrics == trainer.metrics.entries[-1]["metrics"]
    assert len(trainer.metrics.entries) > 0 and not (tmp_path / "results.json").exists()
