"""Divergence of predictions with one class each."""

import pytest
import torch

from mlc_ext import Divergence


def random_image(seed, num_classes=4, count=300):
    g = torch.Generator().manual_seed(seed)

    def boxes(n):
        corner = torch.rand(n, 2, generator=g) * 60
        return torch.cat([corner, corner + 5 + torch.rand(n, 2, generator=g) * 40], dim=1)

    labels = torch.randint(0, num_classes, (count,), generator=g)
    predictions = {
        "boxes": boxes(count),
        "scores": torch.rand(count, generator=g),
        "raw_scores": torch.rand(count, generator=g),
        "labels": labels,
    }
    return predictions, {"boxes": boxes(6), "labels": torch.randint(0, num_classes, (6,), generator=g)}


def test_sparse_is_each_class_by_itself():
    """The dense form of the predictions of one class alone, one class at a time."""
    sparse, by_class = Divergence(iou_threshold=0.2), Divergence(iou_threshold=0.2)
    for seed in range(3):
        predictions, targets = random_image(seed)
        sparse.update(predictions, targets)
        for label in range(4):
            own, of_class = predictions["labels"] == label, targets["labels"] == label
            dense = {
                "boxes": predictions["boxes"][own],
                "scores": predictions["scores"][own, None],
                "raw_scores": predictions["raw_scores"][own, None],
            }
            by_class.update(dense, {"boxes": targets["boxes"][of_class], "labels": torch.ones(of_class.sum()).long()})
    expected, found = by_class.compute(), sparse.compute()
    assert found["pooled_count"] > 50 and found["per_gt_count"] == 18
    assert found == pytest.approx(expected, abs=1e-12)


def test_zeros_for_other_classes_are_not_the_same():
    predictions, targets = random_image(0)
    dense = torch.zeros(300, 4).scatter_(1, predictions["labels"][:, None], predictions["scores"][:, None])
    sparse, filled = Divergence(first_label=0), Divergence(first_label=0)
    sparse.update({key: predictions[key] for key in ("boxes", "scores", "labels")}, targets)
    filled.update({"boxes": predictions["boxes"], "scores": dense}, targets)
    assert sparse.compute()["per_gt"] != pytest.approx(filled.compute()["per_gt"], abs=1e-3)


def test_no_prediction_of_a_gts_class():
    predictions, targets = random_image(0)
    targets["labels"][:] = 1_000_000  # any label is allowed
    divergence = Divergence()
    divergence.update(predictions, targets)
    empty = {key: value[:0] for key, value in predictions.items()}
    divergence.update(empty, targets)
    result = divergence.compute()
    assert (result["per_gt_count"], result["per_gt_skipped"], result["pooled_count"]) == (0, 12, 0)


def test_errors():
    predictions, targets = random_image(0)
    with pytest.raises(TypeError, match="predicted labels must be int64, got torch.int32"):
        Divergence().update({**predictions, "labels": predictions["labels"].int()}, targets)
    with pytest.raises(ValueError, match=r"scores and labels must have shape \[300\], got \[300, 4\] and \[300\]"):
        Divergence().update({**predictions, "scores": torch.rand(300, 4)}, targets)
    with pytest.raises(ValueError, match=r"scores and labels must have shape \[300\], got \[300\] and \[5\]"):
        Divergence().update({**predictions, "labels": predictions["labels"][:5]}, targets)
