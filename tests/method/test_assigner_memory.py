"""Assigners whose memory is O(A + K) allocate no matrix of gts and priors, and no other copy of the logits."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mlc_ext import ATSSAssigner, MALAssigner, Predictions, TaskAlignedAssigner

NUM_PRIORS, NUM_GTS, CLASSES = 20_000, 500, 80
BOUND = 2 * 2**20
"""Bytes; a mask of gts and priors has 10 million, the logits have 3.2 million or, as float32, 6.4."""


class LargestAllocation(TorchDispatchMode):
    """The bytes of the largest storage that an operator returns and did not receive."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in given:
                self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return results


@pytest.mark.parametrize(
    "assigner",
    [
        TaskAlignedAssigner(first_label=0),
        MALAssigner(first_label=0, candidates="all"),
        ATSSAssigner(candidates="all"),
    ],
    ids=lambda assigner: type(assigner).__name__,
)
@pytest.mark.parametrize("autocast", [False, True])
def test_no_matrix_of_gts_and_priors(assigner, autocast):
    g = torch.Generator().manual_seed(0)
    center, half = (torch.rand(NUM_PRIORS, 2, generator=g) * extent for extent in (1000, 50))
    anchors = torch.cat((center - half, center + half), 1)
    gts = anchors[torch.randint(0, NUM_PRIORS, (NUM_GTS,), generator=g)] + 1
    targets = [{"boxes": gts, "labels": torch.arange(NUM_GTS) % CLASSES}]
    logits = torch.randn(1, NUM_PRIORS, CLASSES, generator=g).bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), LargestAllocation() as largest:
        found = assigner([anchors], targets, Predictions(logits, anchors[None]))
    assert (found.labels == 1).sum() > NUM_GTS / 2
    assert NUM_PRIORS * 8 <= largest.bytes < BOUND


def test_shapes_without_data():
    """On meta tensors, which have no autocast."""
    priors, boxes = torch.zeros(30, 4, device="meta"), torch.zeros(2, 30, 4, device="meta")
    targets = [{"boxes": boxes[0, :n], "labels": torch.zeros(n, dtype=torch.int64, device="meta")} for n in (3, 0)]
    predictions = Predictions(torch.zeros(2, 30, 5, device="meta"), boxes)
    for assigner in (TaskAlignedAssigner(first_label=0), MALAssigner(first_label=0), ATSSAssigner()):
        found = assigner([priors], targets, predictions)
        assert found.labels.shape == found.metric.shape == (60,) and found.labels.device.type == "meta"
