"""The operator's form in ONNX against the operator itself, in onnxruntime."""

import pytest
import torch
from torch import nn

import mlc_ext
from mlc_ext.detectors.exporting.formats import onnx_model
from mlc_ext.detectors.exporting.program import sizes_may_be_one

ort = pytest.importorskip("onnxruntime")


class Nms(nn.Module):
    def __init__(self, score_threshold: float, max_detections: int) -> None:
        super().__init__()
        self.options = {"score_threshold": score_threshold, "max_detections": max_detections}

    def forward(self, boxes, scores, quality, labels):
        return tuple(mlc_ext.batched_rescored_nms(boxes, scores, quality, labels, 0.5, **self.options))


NAMES = ("boxes", "scores", "quality", "labels")
THRESHOLDS = (0.25, float("-inf"))
LIMITS = (7, 100)


@pytest.fixture(scope="module")
def sessions():
    """One per score threshold and limit."""
    found = {}
    example = (torch.rand(2, 50, 4), torch.rand(2, 50), torch.rand(2, 50), torch.ones(2, 50, dtype=torch.int64))
    sizes = {name: {0: torch.export.Dim("b", min=1), 1: torch.export.Dim("n", min=1)} for name in NAMES}
    for threshold in THRESHOLDS:
        for limit in LIMITS:
            with sizes_may_be_one():
                program = torch.export.export(Nms(threshold, limit), example, dynamic_shapes=sizes)
            model = onnx_model(program, {name: {0: "b", 1: "n"} for name in NAMES}, ("keep", "kept_scores", "counts"))
            domains = {node.domain for node in model.model_proto.graph.node}
            assert domains <= {"", "ai.onnx"} and not model.model_proto.functions
            content = model.model_proto.SerializeToString()
            found[threshold, limit] = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return found


def cases(batch: int, n: int, seed: int):
    """Boxes on a grid of whole pixels and scores of a few values: ties, equal boxes and IoUs at the threshold."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 12, (batch, n, 2), generator=generator).float()
    sizes = torch.randint(0, 9, (batch, n, 2), generator=generator).float()  # of 0 too
    scores = torch.randint(0, 9, (batch, n), generator=generator) / 8
    scores[torch.rand(batch, n, generator=generator) < 0.1] = float("-inf")
    quality = torch.randint(0, 5, (batch, n), generator=generator) / 4
    labels = torch.randint(0, 4, (batch, n), generator=generator)
    return torch.cat([corners, corners + sizes], -1), scores, quality, labels


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize(("batch", "n"), [(1, 1), (1, 40), (3, 200), (2, 6)])
def test_equal_to_the_operator(sessions, batch, n, threshold, limit):
    """Ties by the lower index, thresholds strict, padding, image by image: bit for bit."""
    for seed in range(20):
        inputs = cases(batch, n, seed)
        expected = Nms(threshold, limit)(*inputs)
        found = sessions[threshold, limit].run(None, dict(zip(NAMES, (x.numpy() for x in inputs), strict=True)))
        for own, reference in zip(found, expected, strict=True):
            assert own.tolist() == reference.tolist()


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_nothing_to_keep(sessions, threshold):
    boxes, _, quality, labels = cases(2, 9, 0)
    inputs = {"boxes": boxes, "scores": torch.full((2, 9), float("-inf")), "quality": quality, "labels": labels}
    keep, scores, counts = sessions[threshold, 7].run(None, {name: x.numpy() for name, x in inputs.items()})
    assert (keep == -1).all() and (scores == 0).all() and counts.tolist() == [0, 0] and keep.shape == (2, 7)


def test_limits_that_it_has_not():
    class Limited(nn.Module):
        def forward(self, boxes, scores):
            return mlc_ext.batched_rescored_nms(boxes, scores, scores, None, 0.5, pre_nms_top_k=3).keep

    program = torch.export.export(Limited(), (torch.rand(1, 9, 4), torch.rand(1, 9)))
    with pytest.raises(Exception, match="without pre_nms_top_k"):
        onnx_model(program, {"boxes": {}, "scores": {}}, ("keep",))
