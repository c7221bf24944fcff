"""tools/gpu_check.py and what it runs, as far as it can be tried without a GPU: fake stages, tiny cases on the CPU."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import _verdicts
import ceilings
import end_to_end
import gpu_check
import gpu_targets
import optional_packages
import pytest
import sanitizer_cases
import torch
from _harness import GRAPH, Row, Settings
from _steps import Turns
from gpu_check import CUT, FAILED, NOT_RUN, PASSED, Result, Stage

ROOT = Path(__file__).resolve().parents[1]


def stage(name, code, limit=30.0, **facts):
    return Stage(name, f"the {name} stage", (sys.executable, "-c", code), limit, **facts)


def run(stages, tmp_path, budget=60.0, jobs=2):
    told = []
    results = gpu_check.run_stages(
        stages, budget=budget, jobs=jobs, logs=tmp_path, done=lambda stage, result: told.append(stage.name)
    )
    assert sorted(told) == sorted(results) == sorted(s.name for s in stages)
    return results


def ended(pid: int) -> bool:
    """Whether there is no such process, or only what is left for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


# --- stages


def test_a_failing_stage_is_recorded_and_the_others_run(tmp_path):
    bad = stage("bad", "import sys; print('what went wrong'); sys.exit(3)")
    results = run([stage("one", "print('fine')"), bad, stage("two", "import os; assert os.environ['X'] == 'y'",
                   environment={"X": "y"})], tmp_path)  # fmt: skip
    assert [results[name].status for name in ("one", "bad", "two")] == [PASSED, FAILED, PASSED]
    assert results["bad"].reason == "exit status 3" and "what went wrong" in results["bad"].tail
    assert results["one"].tail == "" and results["one"].seconds > 0


def test_a_stage_that_takes_too_long_is_ended_with_its_children(tmp_path):
    pid_file = tmp_path / "pid"
    code = (
        "import subprocess, sys, time; print('started', flush=True)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid)); time.sleep(60)"
    )
    start = time.monotonic()
    result = run([stage("slow", code, limit=10.0)], tmp_path)["slow"]
    assert time.monotonic() - start < 50
    assert result.status == CUT and "10 s" in result.reason and "started" in result.tail
    wait_for(lambda: ended(int(pid_file.read_text())))


def test_the_time_for_all_stages(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "LEAST_SECONDS", 1)
    stages = [stage("long", "import time; time.sleep(60)", alone=True), stage("late", "print(1)", alone=True)]
    results = run(stages, tmp_path, budget=2.0)
    assert results["long"].status == CUT and "left of the time" in results["long"].reason
    assert results["late"].status == CUT and "before it began" in results["late"].reason
    assert gpu_check.exit_code(results.values()) == 1


def test_a_missing_tool_is_not_run_and_no_pass(tmp_path):
    results = run([stage("watched", "print(1)", needs="no-such-sanitizer"), stage("other", "print(1)")], tmp_path)
    assert results["watched"].status == NOT_RUN and "no-such-sanitizer" in results["watched"].reason
    assert gpu_check.exit_code(results.values()) == 3


def test_nothing_runs_without_the_build(tmp_path):
    results = run([stage("build", "raise SystemExit(1)", alone=True), stage("tests", "print(1)")], tmp_path)
    assert results["build"].status == FAILED
    assert results["tests"].status == NOT_RUN and "build" in results["tests"].reason
    assert gpu_check.exit_code(results.values()) == 1


def test_what_measures_time_runs_alone():
    a, b, c, d, e = (stage(name, "", alone=name in "ad") for name in "abcde")
    assert [[s.name for s in wave] for wave in gpu_check.waves([a, b, c, d, e])] == [["a"], ["b", "c"], ["d"], ["e"]]


def test_stages_run_beside_each_other(tmp_path):
    """Each waits for the other's file."""
    code = (
        "import sys, time, pathlib\n"
        "mine, other = map(pathlib.Path, {!r})\n"
        "mine.touch(); end = time.time() + 20\n"
        "while not other.exists(): time.sleep(0.05); assert time.time() < end"
    )
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    results = run([stage("a", code.format((a, b))), stage("b", code.format((b, a)))], tmp_path)
    assert {result.status for result in results.values()} == {PASSED}


def test_a_result_that_cannot_be_read_is_a_failure(tmp_path):
    def read(result):
        raise KeyError("figures")

    result = run([stage("one", "print(1)", read=read)], tmp_path)["one"]
    assert result.status == FAILED and "KeyError" in result.reason


@pytest.mark.parametrize(
    ("statuses", "code"),
    [([PASSED], 0), ([PASSED, NOT_RUN], 3), ([NOT_RUN, FAILED], 1), ([PASSED, CUT], 1), ([], 3)],
)
def test_exit_codes(statuses, code):
    assert gpu_check.exit_code(Result(status) for status in statuses) == code


@pytest.fixture
def stages(tmp_path):
    return gpu_check.make_stages(gpu_check.Place(sys.executable, tmp_path, "9.0", 16))


def test_the_stages(stages):
    names = [s.name for s in stages]
    assert len(set(names)) == len(names) and names[0] == "build"
    assert all(s.title and s.limit > 0 for s in stages)
    assert {s.name for s in stages if s.alone} == {"build", "sync", "benchmarks", "end_to_end"}
    for s in stages:
        for word in s.command:
            if word.endswith(".py"):
                assert (ROOT / word.removeprefix("--ignore=")).is_file(), word
        assert not any(".venv" in word.replace(sys.executable, "") for word in s.command)
    build = stages[0].environment
    assert build["FORCE_CUDA"] == "1" and build["TORCH_CUDA_ARCH_LIST"] == "9.0" and build["MAX_JOBS"] == "16"
    for name in ("tests", "graphs", "determinism", "scale", "sync"):
        (found,) = (s for s in stages if s.name == name)
        assert found.environment["MLC_FAIL_WITHOUT_CUDA"] == "1"
    for tool in gpu_check.ALIASES["sanitizers"]:
        (found,) = (s for s in stages if s.name == tool)
        assert found.needs.endswith("compute-sanitizer") and found.environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"


def test_the_build_command_reports_failures(tmp_path):
    """No CUDA build of torch here: the build stage must fail and say so."""
    if torch.version.cuda is not None:
        pytest.skip("there is a CUDA build of torch")
    (build,) = gpu_check.choose(gpu_check.make_stages(gpu_check.Place(sys.executable, tmp_path, "9.0", 1)), "build")
    result = gpu_check.run_stage(build, 60, tmp_path / "build.log")
    assert result.status == FAILED and "FORCE_CUDA=1" in result.tail


def test_choosing_stages(stages):
    assert gpu_check.choose(stages, "") == stages
    assert [s.name for s in gpu_check.choose(stages, "sync,build")] == ["build", "sync"]
    assert [s.name for s in gpu_check.choose(stages, "sanitizers")] == list(gpu_check.ALIASES["sanitizers"])
    with pytest.raises(ValueError, match="unknown stage speed"):
        gpu_check.choose(stages, "build,speed")


# --- no GPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py"), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert "no GPU" in line and not out.exists()


@pytest.mark.skipif(torch.cuda.is_available() or shutil.which("make") is None, reason="there is a GPU, or no make")
def test_the_make_target(tmp_path):
    out = tmp_path / "out"
    command = ["make", "-s", "gpu-check", f"OUT={out}", f"PYTHON={sys.executable}", f"VENV={tmp_path}/v"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "no GPU" in done.stderr
    assert not out.exists() and not (tmp_path / "v").exists()


# --- reading results


def pytest_record(tmp_path, source, *arguments):
    module, junit, log = tmp_path / "test_some.py", tmp_path / "some.xml", tmp_path / "some.log"
    module.write_text("import pytest\n" + source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={junit}", str(module)]
    with log.open("w") as output:
        status = subprocess.run([*command, *arguments], cwd=tmp_path, stdout=output).returncode
    result = Result(PASSED if status == 0 else FAILED, reason="" if status == 0 else f"exit status {status}")
    gpu_check.read_tests(junit, log)(result)
    return result


def test_skips_are_failures_but_for_a_second_gpu(tmp_path):
    passing, two = "def test_a(): pass\n", "def test_b(): pytest.skip('needs two GPUs')\n"
    result = pytest_record(tmp_path, passing + two)
    assert result.status == PASSED and result.notes == ["skipped: needs two GPUs (1)"]
    result = pytest_record(tmp_path, passing + two + "def test_c(): pytest.skip('no CUDA device')\n")
    assert result.status == FAILED and result.reason == "skipped: no CUDA device (1)"
    assert result.record == {
        "tests": 3, "failures": 0, "errors": 0, "skipped": 2, "skips": {"needs two GPUs": 1, "no CUDA device": 1},
    }  # fmt: skip
    result = pytest_record(tmp_path, "def test_a(): assert 0\n" + passing.replace("_a", "_b"))
    assert result.status == FAILED and result.reason == "1 of 2 tests failed"
    result = pytest_record(tmp_path, two)
    assert result.status == NOT_RUN


def test_modules_that_are_left_out_are_told(tmp_path):
    result = pytest_record(tmp_path, "def test_a(): print('\\nleft out: test_x.py needs scipy')\n", "-s")
    assert result.notes == ["left out: test_x.py needs scipy"]


CLEAN = "sanitizer_cases: 9 cases in 1.0 s on cuda\n========= {} SUMMARY: 0 {}\n"


@pytest.mark.parametrize(
    ("text", "before", "after", "words"),
    [
        (CLEAN.format("ERROR", "errors"), PASSED, PASSED, ""),
        (CLEAN.format("RACECHECK", "hazards displayed (0 errors, 0 warnings)"), PASSED, PASSED, ""),
        ("sanitizer_cases: 9\n========= ERROR SUMMARY: 4 errors\n", FAILED, FAILED, "4 errors"),
        ("sanitizer_cases: 9\n========= RACECHECK SUMMARY: 1 hazard displayed\n", PASSED, FAILED, "1 hazard"),
        ("Error: Device not supported\n========= ERROR SUMMARY: 1 error\n", FAILED, NOT_RUN, "not support"),
        ("", PASSED, FAILED, "no summary"),
        ("========= ERROR SUMMARY: 0 errors\n", PASSED, FAILED, "no summary"),  # ended before the cases
    ],
)
def test_sanitizer_reports(tmp_path, text, before, after, words):
    log = tmp_path / "memcheck.log"
    log.write_text(text)
    result = Result(before)
    gpu_check.read_sanitizer(log)(result)
    assert result.status == after and words in result.reason


def test_figures_of_a_benchmark(tmp_path):
    record, table = tmp_path / "b.json", tmp_path / "b.md"
    read = gpu_check.read_benchmark(record, table)
    result = Result(PASSED)
    read(result)
    assert result.status == FAILED and result.reason == "wrote no figures"
    verdicts = [{"verdict": "met"}, {"verdict": "missed"}, {"verdict": "met"}]
    record.write_text(json.dumps({"trial": False, "verdicts": verdicts}))
    table.write_text("| a |\n")
    result = Result(PASSED)
    read(result)
    assert result.status == PASSED and result.markdown == "| a |\n" and result.record["verdicts"] == verdicts
    assert result.notes == ["2 targets met, 1 targets missed, 0 targets not measured"]
    record.write_text(json.dumps({"trial": True, "verdicts": []}))
    result = Result(PASSED)
    read(result)
    assert result.status == FAILED and result.record is None and not result.markdown


def test_the_report(tmp_path):
    facts = {"device": "some GPU", "driver": "1.2", "torch": "2.11.0", "cuda": "13.0", "commit": "abc", "date": "today"}
    stages = [stage(name, "") for name in ("build", "tests", "memcheck", "benchmarks", "later")]
    results = {
        "build": Result(PASSED, 12.3),
        "tests": Result(FAILED, 4.0, "2 of 9 tests failed", tail="E   assert a | b"),
        "memcheck": Result(NOT_RUN, reason="compute-sanitizer was not found"),
        "benchmarks": Result(PASSED, 5.0, notes=["1 targets met"], record={"rows": []}, markdown="| row |\n|---|"),
    }
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "tests.log").write_text("all of it")
    gpu_check.write_report(tmp_path / "out", facts, stages, results, logs)
    written = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert facts.items() <= written.items()
    by_name = {s["name"]: s for s in written["stages"]}
    assert set(written["targets"].values()) == {"not measured"}
    assert [s["status"] for s in written["stages"]] == [PASSED, FAILED, NOT_RUN, PASSED, "pending"]
    assert by_name["benchmarks"]["record"] == {"rows": []} and by_name["tests"]["tail"] == "E   assert a | b"
    text = (tmp_path / "out" / "gpu.md").read_text()
    for line in ("device some GPU, driver 1.2", "| build: the build stage | passed | 12 |", "2 of 9 tests failed",
                 "| memcheck: the memcheck stage | not run |", "## the benchmarks stage\n\n| row |", "pending",
                 "## tests: the end of its output"):  # fmt: skip
        assert line in text, line
    assert (tmp_path / "out" / "gpu.log").read_text() == "===== tests\nall of it\n"


def test_targets_that_a_stage_judges():
    results = {"sync": Result(PASSED), "graphs": Result(FAILED), "determinism": Result(CUT)}
    assert list(gpu_check.promises(results).values()) == ["met", "missed", "not measured", "not measured"]


# --- packages that are not there


def test_modules_are_left_out_for_missing_packages(monkeypatch):
    here = optional_packages.installed
    assert optional_packages.left_out() == {}  # all are installed
    monkeypatch.setattr(optional_packages, "installed", lambda name: name not in ("hypothesis", "scipy") and here(name))
    out = optional_packages.left_out()
    assert out["test_segmented_otsu.py"] == {"hypothesis"}  # by tests/strategies.py too
    assert out["test_divergence.py"] == {"hypothesis", "scipy"}
    for needed in (*gpu_check.ONE_BY_ONE, "tests/test_op_edges.py", "tests/test_op_registration.py"):
        assert Path(needed).name not in out


def fake_wheel(folder, name, python="py3"):
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-{python}-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "answer = 42\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {python}-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_wheels_are_used_where_a_package_is_missing(tmp_path):
    for name, python in (("some_missing_package", "py3"), ("pytest", "py3"), ("other_package", "cp27")):
        fake_wheel(tmp_path / "wheels", name, python)
    told = gpu_check.install_wheels(sys.executable, tmp_path / "wheels", tmp_path / "packages")
    assert (tmp_path / "packages" / "some_missing_package.py").exists()
    for unused in ("pytest", "other_package"):
        assert not (tmp_path / "packages" / f"{unused}.py").exists()
    assert len(told) == 3 and "some-missing-package: used" in told
    assert any("pytest" in line and "is installed" in line for line in told)
    assert any(line.startswith("other-package: ") and "not a supported wheel" in line for line in told)


# --- targets


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


# --- all of it


@pytest.fixture
def pretended(monkeypatch):
    """A GPU as far as main() looks, and stages of the test's own."""

    def pretend(stages):
        monkeypatch.setattr(gpu_check, "why_no_gpu", lambda: None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
        monkeypatch.setattr(gpu_check, "machine", lambda: {"device": "pretended", "torch": "2.11.0"})
        monkeypatch.setattr(gpu_check, "make_stages", lambda place: stages)

    return pretend


def test_the_whole_run(pretended, tmp_path, capsys):
    pretended([stage("build", "print(1)", alone=True), stage("bad", "raise SystemExit('no')"), stage("late", "")])
    assert gpu_check.main(["--out", str(tmp_path / "out"), "--budget", "60"]) == 1
    written = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [s["status"] for s in written["stages"]] == [PASSED, FAILED, PASSED]
    assert written["device"] == "pretended" and written["budget_seconds"] == 60 and written["seconds"] > 0
    told = capsys.readouterr().out
    assert "pretended" in told and "bad: exit status 1" in told
    assert gpu_check.main(["--out", str(tmp_path / "some"), "--stages", "build,late"]) == 0
    assert len(json.loads((tmp_path / "some" / "gpu.json").read_text())["stages"]) == 2
    with pytest.raises(SystemExit):
        gpu_check.main(["--out", str(tmp_path / "none"), "--stages", "speed"])
    assert "unknown stage speed" in capsys.readouterr().err and not (tmp_path / "none").exists()


INTERRUPTED = """
import sys
import torch
import gpu_check

def stage(name, code, alone):
    return gpu_check.Stage(name, name, (sys.executable, "-c", code), 100, alone=alone)

waits = "import os, sys, time; open(os.environ['PID_FILE'], 'w').write(str(os.getpid())); time.sleep(100)"
gpu_check.why_no_gpu = lambda: None
torch.cuda.get_device_capability = lambda *_: (9, 0)
gpu_check.machine = lambda: {"device": "pretended", "torch": "2.11.0"}
gpu_check.make_stages = lambda place: [
    stage("one", "", True), stage("two", waits, False), stage("three", "", True)
]
sys.exit(gpu_check.main(["--out", sys.argv[1]]))
"""


def test_an_interrupted_run_leaves_nothing_behind(tmp_path):
    """SIGTERM, as a batch system sends it: the stage that runs is ended, what was done before is written."""
    pid_file, out = tmp_path / "pid", tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tools"), "PID_FILE": str(pid_file)}
    command = [sys.executable, "-c", INTERRUPTED, str(out)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: pid_file.exists() and pid_file.read_text())
        process.terminate()
        assert process.wait(timeout=30) != 0
    finally:
        process.kill()
    wait_for(lambda: ended(int(pid_file.read_text())))
    written = json.loads((out / "gpu.json").read_text())
    assert [s["status"] for s in written["stages"]][::2] == [PASSED, "pending"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_tests_without_a_gpu_do_not_pass(stages, tmp_path):
    (graphs,) = gpu_check.choose(stages, "graphs")
    result = gpu_check.run_stage(graphs, 120, tmp_path / "graphs.log")
    assert result.status == FAILED and "MLC_FAIL_WITHOUT_CUDA=1, but no CUDA device" in result.tail
    assert result.record["tests"] == result.record["errors"] > 10
