"""Every detector as a program of torch.export, as a file and in ONNX, against the detector itself."""

import copy
import dataclasses
from typing import NamedTuple

import pytest
import torch
from torch import nn
from whole_models import build

from mlc_ext import MLCConfig
from mlc_ext.detectors.config.settings import RunConfig
from mlc_ext.detectors.exporting.check import BOX_TOLERANCE, SCORE_TOLERANCE, Comparison
from mlc_ext.detectors.exporting.formats import FORMATS, check_possible, write_exported
from mlc_ext.detectors.exporting.program import OUTPUTS, export_program
from mlc_ext.detectors.models import fcos
from mlc_ext.detectors.models.memory_layout import set_memory_layout
from mlc_ext.detectors.prediction.exported import ExportedDetector, Metadata, open_exported

pytest.importorskip("onnxruntime")

SIZES = [(33, 47), (100, 161), (5, 300), (128, 129), (1, 1)]
SLOW = pytest.mark.slow
KINDS = [
    "fcos of 4 levels",  # exported in less time
    pytest.param("rpn", marks=SLOW),
    pytest.param("fcos", marks=SLOW),
    pytest.param("fcos-", marks=SLOW),
    pytest.param("retinanet", marks=SLOW),
    pytest.param("fcos without rescoring", marks=SLOW),
    pytest.param("rpn without rescoring", marks=SLOW),
    pytest.param("one class", marks=SLOW),
]


def metadata(**changes) -> Metadata:
    sides = {"short": 64, "long": 96}
    entries = {"detector": "fcos", "classes": ["a", 'b "c"', "é"], "category_ids": [1, 5, 9], "class_agnostic": False}
    return Metadata(**entries | changes, preprocessing=sides, postprocessing={}, mlc_ext_version="0", torch_version="2")


def spread(detector):
    """Scores far apart from one another, so that rounding does not change their order."""
    torch.manual_seed(1)
    nn.init.normal_(detector.head.cls_logits.weight, std=3 if detector.class_agnostic else 0.3)
    nn.init.zeros_(detector.head.cls_logits.bias)
    nn.init.normal_(detector.head.bbox_regression.weight, std=0.05)
    for layer in (getattr(detector.head, name, None) for name in ("iou_logits", "bbox_ctrness")):
        if layer is not None:
            nn.init.normal_(layer.weight, std=0.3)
    return detector.eval()


def detector_of(kind: str):
    name, _, rest = kind.partition(" ")
    if kind == "fcos of 4 levels":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fcos, "NUM_LEVELS", 4)
            detector = build("fcos", extra_levels="p5")
    elif kind == "one class":
        detector = build("fcos-", num_classes=1, mlc=MLCConfig(ml=False, iur=False))
    elif rest:
        detector = build(name, mlc=MLCConfig(ml=False, iur=False))
    else:
        detector = build(name)
    detector.set_epoch(99)  # rescoring is due
    set_memory_layout(detector, RunConfig())  # as a loaded checkpoint's
    return spread(detector)


class Exported(NamedTuple):
    detector: nn.Module
    before: nn.Module
    """A copy from before the export."""
    opened: dict[str, ExportedDetector]
    """Its files by format."""


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    detector = detector_of(request.param)
    before = copy.deepcopy(detector)
    program, folder = export_program(detector), tmp_path_factory.mktemp("program")
    opened = {}
    for name in ("torch", "onnx"):
        path = folder / f"model{FORMATS[name].suffix}"
        size = write_exported(name, program, metadata(), path)
        assert size == path.stat().st_size and [p.name for p in folder.glob(".*")] == []
        opened[name] = open_exported(path)
    return Exported(detector, before, opened)


def images_of(count: int, height: int, width: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, height // 6 + 2, width // 6 + 2, generator=generator) * 255
    return list(nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").to(torch.uint8))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equal_detections(exported, size, count):
    """In the same order. Proposals have no threshold: of those in the padding, whose scores are equal, the order and so
    the clusters depend on rounding. The ones that rank above are compared."""
    detector, opened = exported.detector, exported.opened
    images = images_of(count, *size)
    in_padding = 0.25 if hasattr(detector.head, "iou_logits") else 0.5
    lowest = in_padding + 0.05 if detector.class_agnostic else 0.0
    with torch.inference_mode():
        expected = detector(images)
    compared_boxes = 0
    for file in opened.values():
        whole = Comparison()
        for one, other in zip(expected, file.detect(images)[0], strict=True):
            whole.add(one, other)
            one, other = (
                {key: value[found["scores"] > lowest] for key, value in found.items()} for found in (one, other)
            )
            if detector.class_agnostic:  # hundreds, some with equal scores
                above = Comparison()
                above.add(one, other)
                assert above.all_equal
            else:
                torch.testing.assert_close(other["boxes"], one["boxes"], rtol=0, atol=BOX_TOLERANCE)
                torch.testing.assert_close(other["scores"], one["scores"], rtol=0, atol=SCORE_TOLERANCE)
                assert torch.equal(other["labels"], one["labels"])
            compared_boxes += len(one["scores"])
        assert whole.all_equal if not detector.class_agnostic else whole.equal_boxes >= 0.97 * whole.boxes
    assert compared_boxes >= 10 or size == (1, 1)


def test_outputs_have_one_size_and_end_in_zeros(exported):
    detector, opened = exported.detector, exported.opened
    most = detector.postprocessor.max_detections
    for file in opened.values():
        for size in SIZES:
            found = dict(zip(OUTPUTS, file.run(torch.stack(images_of(2, *size))), strict=True))
            assert found["boxes"].shape == (2, most, 4) and found["boxes"].dtype == torch.float32
            assert found["scores"].shape == found["labels"].shape == (2, most)
            assert found["labels"].dtype == found["count"].dtype == torch.int64
            for boxes, scores, labels, count in zip(*(found[name] for name in OUTPUTS), strict=True):
                assert (
                    (0 < count or size == (1, 1))
                    and count <= most
                    and boxes.isfinite().all()
                    and (scores[:-1] >= scores[1:]).all()
                )
                assert (boxes[count:] == 0).all() and (scores[count:] == 0).all() and (labels[count:] == 0).all()
                assert (labels[:count] >= 1).all() and (boxes[:count, 2:] > boxes[:count, :2]).all()
                assert (boxes >= 0).all() and (boxes <= torch.tensor([size[1], size[0]] * 2)).all()


def test_metadata_comes_back(exported):
    opened = exported.opened
    assert opened["torch"].metadata == metadata()
    assert opened["onnx"].metadata == dataclasses.replace(metadata(), opset=18)


def test_other_postprocessing(tmp_path):
    """Few detections, none above the threshold in an image; IoU-guided NMS, which ONNX has not."""
    detector, images = detector_of("fcos of 4 levels"), images_of(3, 100, 161)
    detector.postprocessor = dataclasses.replace(detector.postprocessor, nms="iou")
    with torch.inference_mode():
        lowest, second = sorted(float(one["scores"][0]) for one in detector(images))[:2]
    options = {"max_detections": 4, "score_threshold": (lowest + second) / 2}
    detector.postprocessor = dataclasses.replace(detector.postprocessor, **options)
    write_exported("torch", export_program(detector), metadata(), tmp_path / "m.pt2")
    with torch.inference_mode():
        expected = detector(images)
    counts = [len(one["scores"]) for one in expected]
    assert counts.count(0) == 1 and max(counts) <= 4
    for one, other in zip(expected, open_exported(tmp_path / "m.pt2").detect(images)[0], strict=True):
        for key in ("boxes", "scores", "labels"):
            torch.testing.assert_close(other[key], one[key], rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="model.nms='iou' cannot be exported to ONNX"):
        check_possible("onnx", detector)


def test_the_detector_stays_as_it_is(exported):
    detector, before = exported.detector, exported.before
    assert len(detector.backbone._forward_pre_hooks) == len(before.backbone._forward_pre_hooks) == 1
    state, expected = detector.state_dict(), before.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in state)
    assert all(state[key].stride() == expected[key].stride() for key in state)  # the memory layout
    assert [type(m) for m in detector.modules()] == [type(m) for m in before.modules()]
    assert detector.postprocessor == before.postprocessor and not detector.training
