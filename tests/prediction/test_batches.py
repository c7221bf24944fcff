"""Images in batches of one padded size: order, sizes of the batches, and images that do not fit in memory."""

import random

import pytest
import torch

from mlc_ext.detectors.data.errors import ImageDecodeError
from mlc_ext.detectors.prediction.batches import detect_in_batches, is_of_one_image, reason


def padded(image, divisor):
    return tuple(-(-side // divisor) * divisor for side in image.shape[1:])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("divisor", [1, 8])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_every_image_once_and_in_order(batch_size, divisor, seed):
    draw = random.Random(seed)
    shapes = [(3, draw.randint(1, 20), draw.choice((4, 9))) for _ in range(draw.randint(0, 12))]
    images = [torch.full(shape, float(i)) for i, shape in enumerate(shapes)]
    batches = []

    def detect(batch):
        batches.append([padded(image, divisor) for image in batch])
        return [{"number": image[0, 0, 0]} for image in batch]

    found = detect_in_batches(detect, images, batch_size, divisor)
    assert [int(one["number"]) for one in found] == list(range(len(images)))
    assert all(len(batch) <= batch_size and len(set(batch)) == 1 for batch in batches)
    sizes = [padded(image, divisor) for image in images]
    assert len(batches) == sum(-(-sizes.count(size) // batch_size) for size in set(sizes))  # as few as there can be


def test_an_image_that_does_not_fit_fails_alone():
    images = [torch.full((3, 4, 4), float(i)) for i in range(5)]

    def detect(batch):
        if len(batch) > 2 or any(int(image[0, 0, 0]) == 3 for image in batch):
            raise RuntimeError("cannot allocate 1 byte\ntraceback")
        return [{"number": image[0, 0, 0]} for image in batch]

    *found, last = detect_in_batches(detect, images, 5, 32)
    assert [int(one["number"]) for one in (*found[:3], last)] == [0, 1, 2, 4]
    assert reason(found[3]) == "cannot allocate 1 byte"


def test_other_errors_are_raised():
    def detect(batch):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        detect_in_batches(detect, [torch.zeros(3, 4, 4)] * 2, 2, 32)
    assert [is_of_one_image(error) for error in (OSError(), ImageDecodeError(), MemoryError(), KeyError())] == [
        True, True, True, False]  # fmt: skip
    assert reason(MemoryError()) == "not enough memory"
