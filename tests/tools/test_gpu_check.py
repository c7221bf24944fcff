"""tools/gpu_check.py with stages of the tests' own: time, what is kept, what is left running, and what is red."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gpu_check
import optional_packages
import pytest
import torch
from gpu_check import CUT, FAILED, NOT_RUN, PASSED, Stage

ROOT = Path(__file__).resolve().parents[2]
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def stage(name, code, limit=60.0, **facts):
    return Stage(name, (sys.executable, "-c", code), limit, **facts)


def run(stages, out, budget=120.0):
    """{name: (status, note)}, in the order in which they ended."""
    found = {}
    gpu_check.run_stages(stages, out, budget, lambda s, status, note, seconds: found.update({s.name: (status, note)}))
    return found


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


@pytest.fixture
def stages(tmp_path):
    return {s.name: s for s in gpu_check.make_stages(tmp_path, "9.0")}


class TestRunning:
    def test_a_failed_stage_does_not_stop_the_others(self, tmp_path):
        bad = stage("bad", "print('what went wrong'); raise SystemExit(7)")
        good = stage("good", "import os; assert os.environ['X'] == 'y'", environment={"X": "y"})
        missing = Stage("watched", ("no-such-sanitizer",), 60)
        found = run([bad, missing, good], tmp_path)
        assert found["bad"] == (FAILED, "exit status 7") and found["good"] == (PASSED, "")
        assert found["watched"] == (NOT_RUN, "no no-such-sanitizer")
        assert (tmp_path / "bad.log").read_text() == "what went wrong\n"

    def test_nothing_runs_without_the_build(self, tmp_path):
        found = run([stage("build", "raise SystemExit(1)", alone=True), stage("tests", "")], tmp_path)
        assert found["build"][0] == FAILED and found["tests"] == (NOT_RUN, "the build did not pass")

    def test_a_stage_that_takes_too_long_is_ended_with_its_children(self, tmp_path):
        code = (
            "import subprocess, sys, time; print('started', flush=True)\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
            f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); time.sleep(100)"
        )
        found = run([stage("slow", code, limit=5.0), stage("after", "", alone=True)], tmp_path)
        assert found["slow"][0] == CUT and found["after"][0] == PASSED
        assert (tmp_path / "slow.log").read_text() == "started\n"
        wait_for(lambda: ended(int((tmp_path / "pid").read_text())))

    def test_the_time_of_a_call(self, tmp_path):
        start = time.monotonic()
        sleeping = [stage(name, "import time; time.sleep(100)", alone=True) for name in "abc"]
        found = run(sleeping, tmp_path, budget=1.0)
        assert time.monotonic() - start < 60 and [status for status, _ in found.values()] == [CUT] * 3

    def test_side_by_side_and_alone(self, tmp_path):
        """Two wait for each other's files; what is alone sees both ended."""
        code = (
            "import sys, time, pathlib\n"
            "mine, other, done = (pathlib.Path({!r}) / name for name in {!r})\n"
            "mine.touch(); end = time.time() + 50\n"
            "while not other.exists(): time.sleep(0.05); assert time.time() < end\n"
            "time.sleep(0.5); done.touch()"
        )
        both = [stage(x, code.format(str(tmp_path), (x, y, x + x))) for x, y in ("ab", "ba")]
        alone = f"import os; assert {{'aa', 'bb'}} < set(os.listdir({str(tmp_path)!r}))"
        found = run([*both, stage("timed", alone, alone=True)], tmp_path)
        assert {status for status, _ in found.values()} == {PASSED} and list(found)[-1] == "timed"

    def test_a_result_that_cannot_be_read_is_a_failure(self, tmp_path):
        (status, note) = run([stage("one", "", judge=gpu_check.judge_benchmark)], tmp_path)["one"]
        assert status == FAILED and "FileNotFoundError" in note


class TestJudging:
    @pytest.fixture
    def judged(self, tmp_path):
        def judge(*modules, arguments=()):
            for k, source in enumerate(modules):
                (tmp_path / f"test_{k}.py").write_text("import pytest\n" + source)
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
            with (tmp_path / "some.log").open("w") as log:
                done = subprocess.run([*command, f"--junitxml={tmp_path}/some.xml"], cwd=tmp_path, stdout=log)
            return gpu_check.judge_tests(tmp_path / "some", done.returncode)

        return judge

    passing, two_gpus = "def test_a(): pass\n", "def test_b(): pytest.skip('needs two GPUs')\n"

    def test_optional_packages_and_a_second_gpu_are_not_red(self, judged):
        status, note = judged(self.passing + self.two_gpus, "pytest.importorskip('no_such_package')\n")
        assert status == PASSED and note.startswith("1 tests ran; ")
        assert "needs two GPUs" in note and "no_such_package" in note

    def test_other_skips_are(self, judged):
        status, note = judged(self.passing + "def test_c(): pytest.skip('no CUDA device')\n")
        assert status == FAILED and "no CUDA device" in note

    def test_failures_are(self, judged):
        status, note = judged(self.passing + "def test_c(): assert 0\n")
        assert status == FAILED and note.startswith("1 tests failed (test_c); 2 tests ran")

    def test_modules_that_cannot_be_imported_are(self, judged):
        assert judged(self.passing, "import no_such_package\n")[0] == FAILED

    def test_no_test_is_no_pass(self, judged):
        assert judged(self.two_gpus)[0] == NOT_RUN
        assert judged("", arguments=["-k", "nothing"])[0] == NOT_RUN

    def test_left_out_modules_are_named(self, judged):
        source = "def test_a(): print('\\nleft out: test_x.py needs scipy')\n"
        assert judged(source, arguments=["-s"]) == (PASSED, "1 tests ran; left out: test_x.py needs scipy")

    @pytest.mark.parametrize(
        ("text", "code", "status"),
        [
            ("sanitizer_cases: 9 cases\n= ERROR SUMMARY: 0 errors\n", 0, PASSED),
            ("sanitizer_cases: 9\n= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", 0, PASSED),
            ("sanitizer_cases: 9\n= ERROR SUMMARY: 4 errors\n", 9, FAILED),
            ("sanitizer_cases: 9\n= RACECHECK SUMMARY: 1 hazard displayed\n", 0, FAILED),
            ("Error: Device not supported\n= ERROR SUMMARY: 1 error\n", 1, NOT_RUN),
            ("", 0, FAILED),
            ("= ERROR SUMMARY: 0 errors\n", 0, FAILED),  # ended before the cases
        ],
    )
    def test_sanitizers(self, tmp_path, text, code, status):
        (tmp_path / "memcheck.log").write_text(text)
        assert gpu_check.judge_sanitizer(tmp_path / "memcheck", code)[0] == status

    @pytest.mark.parametrize(("trial", "code", "status"), [(False, 0, PASSED), (False, 1, FAILED), (True, 0, FAILED)])
    def test_benchmarks(self, tmp_path, trial, code, status):
        verdicts = [{"verdict": word} for word in ("met", "missed", "met")]
        (tmp_path / "b.json").write_text(json.dumps({"trial": trial, "verdicts": verdicts}))
        found, note = gpu_check.judge_benchmark(tmp_path / "b", code)
        assert found == status and "2 met, 1 missed" in note


def test_the_stages(stages):
    assert set(stages) == set(gpu_check.GROUPS["1"]) | set(gpu_check.GROUPS["2"])
    for s in stages.values():
        for word in (word.removeprefix("--ignore=") for word in s.command):
            assert not word.endswith(".py") or (ROOT / word).is_file(), word
    assert list(gpu_check.choose(list(stages.values()), "sync,build")) == [stages["build"], stages["sync"]]
    with pytest.raises(SystemExit, match="no stage speed"):
        gpu_check.choose(list(stages.values()), "build,speed")


@no_gpu
def test_gpu_tests_do_not_pass_without_a_gpu(stages, tmp_path):
    assert run([stages["graphs"]], tmp_path)["graphs"][0] == FAILED
    assert "MLC_FAIL_WITHOUT_CUDA=1, but no CUDA device" in (tmp_path / "graphs.log").read_text()


@no_gpu
@pytest.mark.parametrize("through_make", [False, True])
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, through_make):
    command = [sys.executable, "tools/gpu_check.py", "--out", str(tmp_path / "out"), "1"]
    if through_make:
        if shutil.which("make") is None:
            pytest.skip("make is not installed")
        command = ["make", "-s", "gpu-check", f"OUT={tmp_path}/out", "PART=1", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout and "sees no GPU" in done.stderr.splitlines()[0]
    assert not (tmp_path / "out").exists()


def test_a_dry_run_tries_the_collection_of_the_tests(tmp_path, capsys):
    assert gpu_check.main(["--dry-run", "--out", str(tmp_path), "graphs"]) == 0
    printed = capsys.readouterr().out
    assert "MLC_FAIL_WITHOUT_CUDA" in printed and "--junitxml" in printed
    assert "test_cuda_graphs.py::" in (tmp_path / "dry_run" / "graphs.log").read_text()
    assert not (tmp_path / "gpu.json").exists()


PRETENDED = """
import sys, torch, gpu_check
def stage(name, code): return gpu_check.Stage(name, (sys.executable, "-c", code), 100, alone=True)
torch.cuda.is_available, torch.cuda.get_device_capability = lambda: True, lambda: (9, 0)
gpu_check.machine = lambda device: dict.fromkeys(("device", "commit", "date"), "pretended")
gpu_check.make_stages = lambda *_: [stage("good", ""), stage("bad", "raise SystemExit('what went wrong')"), stage(
    "slow", "import os, time; open(os.environ['PID_FILE'], 'w').write(str(os.getpid())); time.sleep(100)")]
sys.exit(gpu_check.main(["--out", *sys.argv[1:]]))
"""


def test_an_ended_call_keeps_its_results_and_leaves_nothing_running(tmp_path):
    """SIGTERM, as a batch system sends it. Earlier calls' results are kept too."""
    pid_file, out = tmp_path / "pid", tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tools'}", "PID_FILE": str(pid_file)}
    command = [sys.executable, "-c", PRETENDED, str(out)]
    assert subprocess.run([*command, "bad"], env=environment).returncode == 1
    process = subprocess.Popen([*command, "good,slow"], env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: pid_file.exists() and pid_file.read_text())
        process.terminate()
        assert process.wait(timeout=60) != 0
    finally:
        process.kill()
    wait_for(lambda: ended(int(pid_file.read_text())))
    written = json.loads((out / "gpu.json").read_text())
    assert {name: result["status"] for name, result in written["stages"].items()} == {"bad": FAILED, "good": PASSED}
    assert [call["stages"] for call in written["calls"]] == [["bad"], ["good", "slow"]]
    text = (out / "gpu.md").read_text()
    assert "| slow | not finished |" in text and "what went wrong" in text


def test_modules_are_left_out_for_missing_packages(monkeypatch):
    here = optional_packages.installed
    lacking = ("hypothesis", "scipy", "pycocotools")
    monkeypatch.setattr(optional_packages, "installed", lambda name: name not in lacking and here(name))
    out = optional_packages.left_out()
    assert "hypothesis" in out["ops/test_segmented_otsu.py"]  # by tests/strategies.py too
    assert out["method/test_divergence.py"] == {"hypothesis", "scipy"}
    assert "pycocotools" in out["programs/test_predict.py"]
    assert not [name for name in out if name.startswith("cuda/test_cuda_") and "shim" not in name]
