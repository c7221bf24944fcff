"""The comparison of detections: what counts as equal, and the table."""

import pytest
import torch

from mlc_ext.detectors.exporting.check import RANDOM_BATCHES, Comparison, compare, random_batches, table


def found(scores, boxes=None, labels=None):
    count = len(scores)
    boxes = [(10.0 * i, 0, 10 * i + 5, 5) for i in range(count)] if boxes is None else boxes
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor(scores, dtype=torch.float32),
        "labels": torch.tensor([1] * count if labels is None else labels),
    }


def added(expected, other):
    one = Comparison()
    one.add(expected, other)
    return one


def test_rounding_and_the_order_of_ties_are_no_difference():
    a = found([0.9, 0.5, 0.5])
    b = found([0.90001, 0.5, 0.5], [(0, 0, 5.0005, 5), (20, 0, 25, 5), (10, 0, 15, 5)])
    one = added(a, b)
    assert one.all_equal and (one.boxes, one.equal_boxes) == (3, 3)
    assert one.box_difference == pytest.approx(5e-4, rel=0.01)
    assert one.score_difference == pytest.approx(1e-5, rel=0.1)
    assert added(found([]), found([])).all_equal


@pytest.mark.parametrize(
    ("other", "equal_boxes", "boxes"),
    [
        (found([0.9, 0.5], [(0, 0, 5.01, 5), (10, 0, 15, 5)]), 1, 2),
        (found([0.9, 0.5], labels=[1, 2]), 1, 2),
        (found([0.9, 0.502]), 1, 2),
        (found([0.9, 0.5, 0.1]), 2, 3),
        (found([0.9]), 1, 2),
        (found([0.9, 0.5], [(10, 0, 15, 5), (0, 0, 5, 5)]), 0, 2),  # another order
        (found([]), 0, 2),
        (found([0.9, 0.9], [(0, 0, 5, 5)] * 2), 1, 2),  # one box is equal to one box
    ],
)
def test_differences(other, equal_boxes, boxes):
    one = added(found([0.9, 0.5]), other)
    assert not one.all_equal and one.equal_images == 0
    assert (one.equal_boxes, one.boxes) == (equal_boxes, boxes)


def test_forms_and_table():
    batches = random_batches()
    assert [(len(b), *b[0].shape[1:]) for b in batches] == list(RANDOM_BATCHES)

    def reference(images):
        return [found([float(image.float().mean() / 255), 0.1]) for image in images]

    results = compare(reference, {"same": reference, "none": lambda images: [found([])] * len(images)}, batches)
    count = sum(batch[0] for batch in RANDOM_BATCHES)
    assert {name: (one.images, one.equal_images) for name, one in results.items()} == {
        "PyTorch": (count, count), "same": (count, count), "none": (count, 0)}  # fmt: skip
    assert all(len(one.milliseconds) == count for one in results.values())
    lines = table(results, {"same": 12_300_000}).splitlines()
    assert len(lines) == 4 and lines[1].startswith("PyTorch") and f"{2 * count} boxes" in lines[1]
    assert "12.3 MB" in lines[2] and f"{count} of {count}" in lines[2] and f"0 of {2 * count}" in lines[3]
