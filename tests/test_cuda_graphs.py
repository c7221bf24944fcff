"""Operators of fixed shapes in a CUDA graph: a synchronisation, or a launch that depends on the data, would fail it."""

import pytest
import torch
from strategies import on, random_boxes, rng, same_bits

import mlc_ext


def group_inputs(seed, n=5000, k=40):
    g = rng(seed)
    x, y = torch.rand(2, n, generator=g).mul(300).floor().div(300)
    return x, y, torch.randint(-1, k, (n,), generator=g)


def nms_inputs(seed, batch=2, n=5000):
    """Rows of more than a tile of the sorts."""
    g = rng(seed)
    boxes = random_boxes(batch * n, g, extent=400).float().view(batch, n, 4)
    scores, quality = torch.rand(2, batch, n, generator=g).mul(500).floor().div(500)
    return boxes, scores, quality, torch.randint(0, 5, (batch, n), generator=g)


def match_inputs(seed):
    g = rng(seed)
    return random_boxes(3000, g).float(), random_boxes(20, g).float(), torch.tensor([0, 3 + seed, 11, 20])


LIMITS = {"score_threshold": 0.05, "pre_nms_top_k": 900, "max_detections": 100}
OPERATORS = {
    "segmented_otsu": (lambda x, y, ids: [mlc_ext.segmented_otsu(x, ids, 40)], group_inputs),
    "segmented_spearman": (lambda x, y, ids: mlc_ext.segmented_spearman(x, y, ids, 40), group_inputs),
    "match_boxes": (lambda *args: mlc_ext.match_boxes(*args, high=0.5, low=0.4), match_inputs),
    "batched_rescored_nms": (lambda *args: mlc_ext.batched_rescored_nms(*args, 0.5, **LIMITS), nms_inputs),
    "batched_iou_nms": (lambda *args: mlc_ext.batched_iou_nms(*args, 0.5, **LIMITS), nms_inputs),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_replay_on_other_values(device, name):
    if device == "cpu":
        pytest.skip("CUDA graphs need CUDA")
    operator, make = OPERATORS[name]
    inputs = on(device, *make(0))
    operator(*inputs)  # what is done once, at the first call, is done before
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = operator(*inputs)
    for seed in (0, 1, 2):
        for held, values in zip(inputs, make(seed), strict=True):
            held.copy_(values)
        graph.replay()
        for got, expected in zip(results, operator(*make(seed)), strict=True):
            same_bits(got, expected)
