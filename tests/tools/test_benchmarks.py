"""The programs that measure on a GPU, as far as they can be tried without one: tiny cases on the CPU."""

import json
import math
from pathlib import Path

import _verdicts
import ceilings
import end_to_end
import gpu_targets
import pytest
import sanitizer_cases
import torch
import torch.nn.functional as F
from _harness import GRAPH, ONE_THREAD, Case, Row, Settings, markdown, run_cases
from _steps import Turns

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("bound", "at_most", "measured", "word"),
    [
        (1.0, True, 0.9, "met"), (1.0, True, 1.0, "met"), (1.0, True, 1.1, "missed"), (8, False, 8.5, "met"),
        (8, False, 7.9, "missed"), (8, False, None, "not measured"), (8, True, math.nan, "not measured"),
    ],
)  # fmt: skip
def test_verdicts(bound, at_most, measured, word):
    verdict = _verdicts.Verdict("a case", "time", "ms", bound, at_most, measured, "a note")
    assert verdict.word == word and verdict.as_dict()["verdict"] == word
    assert f"{word} (a note)" in _verdicts.table([verdict])[-1]


def test_goals_judge_what_was_measured():
    peers = {"faster_than": {"torchvision": 50}, "slower_than": {"plain": 1.3}}
    goal = gpu_targets.Goal("NMS", None, (), (), graph=0.04, called=0.07, share=0.8, **peers)
    row = Row("NMS", "16 x 1000", {"mlc_ext": 0.06, GRAPH: 0.05, "torchvision": 3.0, "plain": 0.05})
    result = gpu_targets.Result(goal, row, limit=0.045)
    assert result.share == pytest.approx(0.9)
    words = {v.what: v.word for v in result.verdicts}
    assert words == {
        "time in a graph": "missed", "time of a call": "met", "torchvision / ours": "met", "ours / plain": "met",
        "share of the limit": "met",
    }  # fmt: skip
    nothing = gpu_targets.Result(goal, None, None, "RuntimeError: out of memory")
    assert {v.word for v in nothing.verdicts} == {"not measured"} and nothing.share is None
    del row.milliseconds["torchvision"]
    assert next(v for v in result.verdicts if "torchvision" in v.what).note == "no torchvision"


def test_limits():
    found = ceilings.Ceilings(4e12, 3e12, 3e13, 2e-6)
    assert found.seconds(moved_bytes=int(4e9)) == pytest.approx(1e-3)
    assert found.seconds(written_bytes=int(3e9), lane_operations=10) == pytest.approx(1e-3)
    assert found.seconds(lane_operations=int(3e10)) == pytest.approx(1e-3)
    assert found.seconds(moved_bytes=8) == 2e-6


def test_a_row_that_goes_wrong_is_its_own_matter():
    def make(settings):
        raise RuntimeError("no memory")

    goal = gpu_targets.Goal("NMS", make, (), (), called=1.0)
    result = gpu_targets.measure_goal(goal, Settings("cpu", True), ceilings.Ceilings(1, 1, 1, None))
    assert result.error == "RuntimeError: no memory" and result.as_dict()["milliseconds"] == {}


def test_the_operators_benchmark_on_the_cpu(monkeypatch):
    """All rows at tiny size; no target is judged, and nothing looks like a GPU's result."""
    monkeypatch.setattr(Settings, "seconds", 0.001)
    # whose CPU peer is compiled first
    monkeypatch.setattr(gpu_targets, "GOALS", [g for g in gpu_targets.GOALS if g.operator != gpu_targets.NMS])
    record, text, complete = gpu_targets.run(Settings("cpu", quick=True))
    assert complete, [row["error"] for row in record["rows"]]
    assert record["trial"] and record["verdicts"] == [] and gpu_targets.TRIAL in text
    assert all(row["milliseconds"]["mlc_ext"] > 0 for row in record["rows"])
    assert json.loads(json.dumps(record))["ceilings"]["replay_seconds"] is None


def test_every_row_has_its_peers():
    operators = {goal.operator for goal in gpu_targets.GOALS}
    assert len(operators) >= 8 and all(goal.size and goal.small for goal in gpu_targets.GOALS)


def test_whole_detectors_on_the_cpu(monkeypatch):
    """Baseline, +ML and +MLC train and detect; the NMS is found and timed."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    setting = end_to_end.Setting("cpu", "fp32", 32, 32, images=1, rounds=1, backbone="resnet18")
    record, text, complete = end_to_end.run(setting, trial=True)
    assert complete, record["detectors"]
    for found in record["detectors"].values():
        assert set(found["training"]) >= {"baseline", "+ML", "+MLC"} and set(found["inference"]) >= {"baseline", "+MLC"}
        assert 0 < found["nms_ms"] < found["inference"]["+MLC"]["least_ms"]
    assert record["verdicts"] == [] and end_to_end.TRIAL in text and "NMS of +MLC" in text


class Small(torch.nn.Module):
    """As far as a comparison of detectors looks at one."""

    def __init__(self, layout: torch.memory_format, trainable: bool = True, side: int = 8):
        super().__init__()
        self.backbone, self.fpn, self.head = (torch.nn.Conv2d(3, 3, 3) for _ in range(3))
        self.backbone.requires_grad_(trainable)
        self.image = torch.rand(2, 3, 16, 16).contiguous(memory_format=layout)
        self.side = side

    def contestant(self) -> end_to_end.Contestant:
        return end_to_end.Contestant(self, lambda: self.backbone(F.interpolate(self.image, size=self.side)))


def test_detectors_that_are_not_alike_are_refused():
    same, other = (Small(torch.channels_last).contestant() for _ in range(2))
    seen = end_to_end.same_inputs({"baseline": same, "torchvision": other})
    assert str(seen) == "2 x 3 x 8 x 8, channels_last"
    for unlike in (Small(torch.contiguous_format), Small(torch.channels_last, side=12)):
        with pytest.raises(AssertionError, match="do not run alike"):
            end_to_end.same_inputs({"baseline": same, "torchvision": unlike.contestant()})
    counts = end_to_end.same_parameters("retinanet", {"baseline": same, "torchvision": other})
    assert counts["baseline"] == {"backbone": 84, "pyramid": 84, "head": 84}
    frozen = Small(torch.channels_last, trainable=False).contestant()
    for detector, peer in (("retinanet", frozen), ("fcos", other)):
        with pytest.raises(AssertionError, match="do not correspond"):
            end_to_end.same_parameters(detector, {"baseline": same, "torchvision": peer})


def test_ours_trains_what_torchvision_trains():
    """Stem, first stage and all of batch norm are frozen; the counts are those of torchvision 0.26's detectors."""
    setting = end_to_end.Setting("cpu", "fp32")
    for detector, count in (("fcos", 32_021_845), ("retinanet", 37_693_172)):
        model, _ = end_to_end.our_model(f"{detector}_r50", setting)
        trained = end_to_end.Contestant(model, lambda: None).trainable()
        assert sum(trained.values()) - end_to_end.HEAD_DIFFERENCE[detector] == count
        assert not any(p.requires_grad for m in (model.backbone.conv1, model.backbone.layer1) for p in m.parameters())


def test_peers_of_one_thread_are_marked(monkeypatch):
    monkeypatch.setattr(Settings, "seconds", 0.001)
    case = Case("a case", int, {"numpy": int, "torch": int}, single_threaded=("numpy",))
    (row,) = run_cases("an operator", [case], Settings())
    facts = dict.fromkeys(("cpu", "threads", "torch", "device", "date", "commit"), "?")
    text = markdown([row], facts | {"torchvision": "0.26.0, the package itself"})
    assert "| numpy [1 thread] |" in text and "| torch |" in text and ONE_THREAD in text
    assert row.ratio("numpy") > 0 and text.endswith("torchvision: 0.26.0, the package itself.\n")


def test_targets_of_whole_detectors():
    times = {"baseline": 0.4, "+ML": 0.403, "+MLC": 0.41, "torchvision": 0.7}
    measured = end_to_end.Measured({k: Turns([v, 2 * v]) for k, v in times.items()})
    measured.inference = {"baseline": Turns([0.2]), "torchvision": Turns([0.28])}
    words = {v.what: (v.word, v.measured) for v in end_to_end.verdicts_of("fcos", measured, 16)}
    assert words["training step, +ML / baseline"] == ("met", pytest.approx(1.0075))
    assert words["training step, +MLC / baseline"] == ("missed", pytest.approx(1.025))
    assert words["training, images/s over torchvision's"] == ("met", pytest.approx(1.75))
    assert words["inference, images/s over torchvision's"] == ("missed", pytest.approx(1.4))
    assert {v.word for v in end_to_end.verdicts_of("fcos", None, 16)} == {"not measured"}


# --- what the sanitizers watch


def test_sanitizer_cases_run():
    assert sanitizer_cases.run_all("cpu") > 200
    names = [name for name, _ in sanitizer_cases.cases("cuda")]
    assert len(set(names)) == len(names) and any("out of range" in name for name in names)


def test_the_kernels_are_found_in_the_sources():
    found = sanitizer_cases.kernels_of_sources()
    assert {"otsu_of_groups", "sort_tiles", "suppress", "scan_sizes", "match_force_kernel", "box_iou_kernel"} <= found
    count = sum(path.read_text().count("__global__ void") for path in (ROOT / "csrc" / "cuda").glob("*.cu*"))
    assert len(found) == count
