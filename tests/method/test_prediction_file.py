"""PredictionWriter: what it keeps is all that the divergence and AP need."""

import numpy as np
import pytest
import torch

from mlc_ext import Divergence, PredictionWriter


def random_image(seed, num_classes=4, first_label=1):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(60, 2, generator=g) * 80
    boxes = torch.cat([corner, corner + 5 + torch.rand(60, 2, generator=g) * 40], 1)
    scores = torch.rand(60, num_classes, generator=g) ** 4
    gts = boxes[:5] + torch.rand(5, 4, generator=g) * 6
    labels = torch.randint(0, num_classes - 1, (5,), generator=g) + first_label  # the last class is absent
    return {"boxes": boxes, "scores": scores, "raw_scores": scores.sqrt()}, {"boxes": gts, "labels": labels}


def read(path):
    with np.load(path) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


@pytest.mark.parametrize("first_label", [0, 1])
def test_the_divergence_of_the_rows_is_that_of_the_predictions(tmp_path, first_label):
    dense, sparse = Divergence(first_label=first_label), Divergence(first_label=first_label)
    writer = PredictionWriter(first_label=first_label)
    targets = {}
    for image_id in range(6):
        predictions, targets[image_id] = random_image(image_id, first_label=first_label)
        dense.update(predictions, targets[image_id])
        writer.update(image_id, predictions, targets[image_id])
    writer.save(tmp_path / "predictions")
    rows = read(tmp_path / "predictions")
    for image_id, target in targets.items():
        own = rows["image_ids"] == image_id
        found = {name: rows[name][own] for name in ("boxes", "scores", "raw_scores")}
        sparse.update(found | {"labels": rows["category_ids"][own]}, target)
    assert sparse.compute() == pytest.approx(dense.compute(), abs=1e-6)
    assert len(rows["scores"]) < 6 * 60 * 4


def test_which_rows_are_kept(tmp_path):
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
    scores = torch.tensor([[0.01, 0.01, 0.9], [0.01, 0.2, 0.04]])
    target = {"boxes": torch.tensor([[5.0, 5.0, 15.0, 15.0]]), "labels": torch.tensor([1])}
    writer = PredictionWriter({1: 7, 2: 3, 3: 90})
    writer.update(12, {"boxes": boxes, "scores": scores}, target)
    writer.save(tmp_path / "predictions.npz")
    rows = read(tmp_path / "predictions.npz")
    assert rows["category_ids"].tolist() == [7, 90, 3]  # an overlap with the object of class 1, and two scores
    assert rows["image_ids"].tolist() == [12, 12, 12]
    torch.testing.assert_close(rows["raw_scores"], torch.tensor([0.01, 0.9, 0.2]))
    assert torch.equal(rows["boxes"], boxes[[0, 0, 1]])


def test_sparse_predictions_and_images_without_objects(tmp_path):
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0]])
    found = {"boxes": boxes, "scores": torch.tensor([0.5, 0.01, 0.01]), "labels": torch.tensor([4, 2, 3])}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    one, two = PredictionWriter(), PredictionWriter()
    one.update(1, found, empty)
    two.update(2, found, {"boxes": boxes[:1], "labels": torch.tensor([2])})
    one.merge(two).save(tmp_path / "predictions.npz")
    rows = read(tmp_path / "predictions.npz")
    assert rows["image_ids"].tolist() == [1, 2, 2] and rows["category_ids"].tolist() == [4, 4, 2]


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="no image was added"):
        PredictionWriter().save(tmp_path / "predictions.npz")
    predictions, target = random_image(0)
    with pytest.raises(ValueError, match="PredictionWriter: raw_scores must have shape"):
        PredictionWriter().update(1, predictions | {"raw_scores": torch.rand(60, 3)}, target)
    with pytest.raises(ValueError, match="PredictionWriter: labels must be in"):
        PredictionWriter(first_label=50).update(1, predictions, target)
    with pytest.raises(KeyError):
        PredictionWriter({1: 1}).update(1, predictions, target)


def test_crowd_boxes_keep_no_predictions(tmp_path):
    found = {
        "boxes": torch.tensor([[0.0, 0.0, 10.0, 10.0]]),
        "scores": torch.tensor([0.01]),
        "labels": torch.tensor([1]),
    }
    target = {"boxes": found["boxes"], "labels": torch.tensor([1])}
    writer = PredictionWriter()
    for image_id, iscrowd in ((1, False), (2, True)):
        writer.update(image_id, found, target | {"iscrowd": torch.tensor([iscrowd])})
    writer.save(tmp_path / "predictions.npz")
    assert read(tmp_path / "predictions.npz")["image_ids"].tolist() == [1]
