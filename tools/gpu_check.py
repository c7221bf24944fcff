#!/usr/bin/env python
"""All that needs a GPU, in one command: `make gpu-check OUT=DIR`, or python tools/gpu_check.py --out DIR

Builds for the GPU that is there, into the tree, with the interpreter that runs this and nothing from a network; then
the CUDA tests with skips forbidden, compute-sanitizer, CUDA graphs, determinism, scale, host synchronisations,
operators against peers and the machine's limits, and whole detectors. Each stage is a process of its own, timed and cut
where it takes too long; one that fails does not keep the others from running.

DIR gets gpu.json, gpu.md and gpu.log, written anew after every stage. MLC_COMMIT names the commit
where there is no git.

Exit codes: 0 every stage passed; 1 a stage failed or was cut; 2 there is no GPU (nothing is run or written); 3 none
failed, but a stage could not be run.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PASSED, FAILED, CUT, NOT_RUN = "passed", "failed", "cut", "not run"
TAIL_CHARACTERS = 4000
LEAST_SECONDS = 5
"""A stage is not started with less time than this."""
ALLOWED_SKIPS = ("needs two GPUs",)
"""What a test of a GPU run may be skipped for; any other skip fails its stage."""
ONE_BY_ONE = ("tests/test_cuda_sync.py", "tests/test_cuda_graphs.py", "tests/test_cuda_determinism.py",
              "tests/test_cuda_scale.py")  # fmt: skip


@dataclass
class Result:
    """What came of a stage."""

    status: str
    seconds: float = 0.0
    reason: str = ""
    """Why it did not pass, in a line."""
    notes: list[str] = field(default_factory=list)
    """What its reader must know although it passed: tests left out, skips."""
    tail: str = ""
    """The end of its output."""
    record: dict | None = None
    """Its own figures."""
    markdown: str = ""

    def as_dict(self) -> dict[str, object]:
        return {k: v for k, v in vars(self).items() if k != "markdown" and v not in ("", [], None)}


@dataclass(frozen=True)
class Stage:
    """A command, and how its result is read."""

    name: str
    title: str
    command: tuple[str, ...]
    limit: float
    """Seconds."""
    environment: dict[str, str] = field(default_factory=dict)
    alone: bool = False
    """Whether nothing else may run: it measures time."""
    needs: str = ""
    """A program without which it cannot run."""
    read: Callable[[Result], None] | None = None
    """Looks at the files and the output of a stage that ended by itself, and may change its result."""


_running: set[subprocess.Popen] = set()


def run_command(
    command: Sequence[str], environment: dict[str, str], seconds: float, log: Path
) -> tuple[int | None, float]:
    """-> (exit status, or None where it was ended because of its time; seconds). Output goes to `log`."""
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        _running.add(process)
        try:
            status: int | None = process.wait(timeout=max(0.0, seconds))
        except subprocess.TimeoutExpired:
            status = None
            _end_group(process)
        finally:
            _running.discard(process)
    return status, time.monotonic() - start


def _end_group(process: subprocess.Popen) -> None:
    """Ends a process and those it started, which SIGKILL finds after their leader too."""
    for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            continue


def tail_of(log: Path) -> str:
    text = log.read_text(errors="replace") if log.exists() else ""
    return text[-TAIL_CHARACTERS:]


def run_stage(stage: Stage, remaining: float, log: Path) -> Result:
    """Runs a stage within its limit and what is left of the budget."""
    if stage.needs and shutil.which(stage.needs) is None:
        return Result(NOT_RUN, reason=f"{stage.needs} was not found")
    if remaining < LEAST_SECONDS:
        return Result(CUT, reason="the time for all stages was used up before it began")
    seconds = min(stage.limit, remaining)
    status, taken = run_command(stage.command, stage.environment, seconds, log)
    result = Result(PASSED, taken, tail=tail_of(log))
    if status is None:
        result.status = CUT
        result.reason = f"took longer than {seconds:.0f} s"
        if seconds < stage.limit:
            result.reason += ", what was left of the time for all stages"
    elif status != 0:
        result.status, result.reason = FAILED, f"exit status {status}"
    if stage.read is not None:
        try:
            stage.read(result)
        except Exception as error:
            if result.status == PASSED:
                result.status, result.reason = FAILED, f"its result cannot be read: {type(error).__name__}: {error}"
    if result.status == PASSED:
        result.tail = ""
    return result


def waves(stages: Sequence[Stage]) -> Iterable[list[Stage]]:
    """Neighbours that may run beside each other, in order."""
    wave: list[Stage] = []
    for stage in stages:
        if stage.alone and wave:
            yield wave
            wave = []
        wave.append(stage)
        if stage.alone:
            yield wave
            wave = []
    if wave:
        yield wave


def run_stages(
    stages: Sequence[Stage],
    *,
    budget: float,
    jobs: int,
    logs: Path,
    done: Callable[[Stage, Result], None],
    first: str = "build",
) -> dict[str, Result]:
    """{name: result} of all, `budget` seconds in sum. Without stage `first` the others cannot be: they are not run."""
    end = time.monotonic() + budget
    results: dict[str, Result] = {}
    lock = threading.Lock()

    def one(stage: Stage) -> None:
        built = results.get(first)
        if built is not None and built.status != PASSED:
            result = Result(NOT_RUN, reason=f"stage {first} did not pass")
        else:
            result = run_stage(stage, end - time.monotonic(), logs / f"{stage.name}.log")
        with lock:
            results[stage.name] = result
            done(stage, result)

    for wave in waves(stages):
        with ThreadPoolExecutor(max(1, jobs)) as pool:
            futures = [pool.submit(one, stage) for stage in wave]
            try:
                for future in futures:
                    future.result()
            except BaseException:  # interrupted: nothing is left running, nothing more begins
                end = 0.0
                for process in list(_running):
                    _end_group(process)
                raise
    return {stage.name: results[stage.name] for stage in stages}


def exit_code(results: Iterable[Result]) -> int:
    statuses = {result.status for result in results}
    return 1 if statuses & {FAILED, CUT} else 3 if NOT_RUN in statuses or not statuses else 0


# --- reading results


def read_tests(junit: Path, log: Path) -> Callable[[Result], None]:
    """Counts of pytest's record, and the modules it left out. A skip fails, but for ALLOWED_SKIPS."""

    def read(result: Result) -> None:
        suites = list(ET.parse(junit).getroot().iter("testsuite"))
        count = {key: sum(int(s.get(key, 0)) for s in suites) for key in ("tests", "failures", "errors", "skipped")}
        reasons: dict[str, int] = {}
        for skip in (s for suite in suites for s in suite.iter("skipped")):
            words = skip.get("message", "") or "no reason"
            reasons[words] = reasons.get(words, 0) + 1
        result.record = {**count, "skips": reasons}
        result.notes += re.findall(r"^left out: .*$", log.read_text(errors="replace"), re.MULTILINE)
        refused = {words: n for words, n in reasons.items() if not words.startswith(ALLOWED_SKIPS)}
        result.notes += [f"skipped: {words} ({n})" for words, n in reasons.items() if words not in refused]
        if result.status == PASSED and refused:
            result.status = FAILED
            result.reason = "skipped: " + "; ".join(f"{words} ({n})" for words, n in refused.items())
        elif result.status == PASSED and count["tests"] == count["skipped"]:
            result.status, result.reason = NOT_RUN, "no test ran"
        elif result.status == FAILED and count["failures"] + count["errors"]:
            result.reason = f"{count['failures'] + count['errors']} of {count['tests']} tests failed"

    return read


def read_sanitizer(log: Path) -> Callable[[Result], None]:
    """compute-sanitizer's own verdict. That it cannot watch this device is not a failure of ours, and no pass."""

    def read(result: Result) -> None:
        text = log.read_text(errors="replace")
        found = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", text)
        if re.search(r"Device not supported|Unable to find injection library", text):
            result.status, result.reason = NOT_RUN, "compute-sanitizer does not support this device"
        elif result.status == PASSED and (not found or "sanitizer_cases:" not in text):
            result.status, result.reason = FAILED, "compute-sanitizer gave no summary"
        elif found and not found[-1].startswith("0 "):
            result.status, result.reason = FAILED, found[-1]
        result.record = {"summary": found[-1] if found else None}

    return read


def read_kernels(result: Result) -> None:
    if result.reason == "exit status 3":
        result.status, result.reason = NOT_RUN, "torch.profiler sees no kernels on this machine"


def read_benchmark(record: Path, table: Path) -> Callable[[Result], None]:
    """The figures that a benchmark wrote. A missed target is no failure of the stage; a trial is no result."""

    def read(result: Result) -> None:
        if not record.exists():
            if result.status == PASSED:
                result.status, result.reason = FAILED, "wrote no figures"
            return
        result.record, result.markdown = json.loads(record.read_text()), table.read_text()
        if result.record.get("trial"):
            result.status, result.reason = FAILED, "ran as a trial, not on the GPU"
            result.record, result.markdown = None, ""
            return
        words = [verdict["verdict"] for verdict in result.record.get("verdicts", [])]
        result.notes.append(", ".join(f"{words.count(w)} targets {w}" for w in ("met", "missed", "not measured")))

    return read


# --- the stages


@dataclass(frozen=True)
class Place:
    """Where and with what the stages run."""

    python: str
    work: Path
    """For logs and files between stages."""
    architecture: str
    """Of the GPU, as TORCH_CUDA_ARCH_LIST names it."""
    cores: int
    extra_path: tuple[str, ...] = ()
    """Folders of packages from WHEELS."""

    @property
    def environment(self) -> dict[str, str]:
        path = [str(ROOT), *self.extra_path, *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def build_command(python: str) -> tuple[str, ...]:
    loads = (
        "import mlc_ext; assert mlc_ext._C_cuda is not None, 'mlc_ext._C_cuda is not built'; "
        "print(mlc_ext.build_info())"
    )
    script = f'"{python}" setup.py -q build_ext --inplace && "{python}" -c "{loads}"'
    return ("bash", "-c", script)


def make_stages(place: Place) -> list[Stage]:
    """All, in the order they run."""
    python, work, env = place.python, place.work, place.environment
    has_xdist = importable("xdist") or any((Path(folder) / "xdist").is_dir() for folder in place.extra_path)
    in_parallel = ("-n", str(min(4, place.cores))) if has_xdist else ()

    def tests(name: str, title: str, arguments: tuple[str, ...], limit: float, alone: bool = False) -> Stage:
        junit = work / f"{name}.xml"
        strict = env | {"MLC_FAIL_WITHOUT_CUDA": "1", "MLC_LEAVE_OUT_TESTS": "1", "OMP_NUM_THREADS": "4"}
        command = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={junit}", *arguments)
        return Stage(name, title, command, limit, strict, alone, read=read_tests(junit, work / f"{name}.log"))

    def sanitizer(tool: str, *options: str, limit: float = 210) -> Stage:
        command = (watcher, "--tool", tool, "--error-exitcode", "9", "--print-limit", "20", *options,
                   python, "tools/sanitizer_cases.py")  # fmt: skip
        uncached = env | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        return Stage(tool, f"compute-sanitizer {tool}", command, limit, uncached, needs=watcher,
                     read=read_sanitizer(work / f"{tool}.log"))  # fmt: skip

    def benchmark(name: str, title: str, script: str, limit: float) -> Stage:
        record, table = work / f"{name}.json", work / f"{name}.md"
        command = (python, f"benchmarks/{script}", "--device", "cuda", "--json", str(record), "--markdown", str(table))
        return Stage(name, title, command, limit, env, alone=True, read=read_benchmark(record, table))

    watcher = of_toolkit("compute-sanitizer")
    marked = ("-m", "cuda")
    others = tuple(f"--ignore={path}" for path in ONE_BY_ONE)
    sync, graphs, determinism, scale = ONE_BY_ONE
    build = env | {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": place.architecture, "MAX_JOBS": str(place.cores)}
    return [
        Stage("build", f"build for sm_{place.architecture.replace('.', '')}", build_command(python), 200, build, True),
        tests("tests", "CUDA tests, skips forbidden", (*in_parallel, "-m", "cuda and not slow", *others), 210),
        sanitizer("memcheck", "--report-api-errors", "no"),  # torch asks the driver what it may not know
        # hazards of our kernels alone: torch's own take most of the time
        sanitizer("racecheck", "--kernel-name", "kns=mlc"),
        sanitizer("initcheck"),
        sanitizer("synccheck", "--kernel-name", "kns=mlc"),
        Stage("kernels", "every kernel of the sources runs", (python, "tools/sanitizer_cases.py", "--kernels"), 60, env,
              read=read_kernels),
        tests("graphs", "CUDA graphs of operators and criterion", (*marked, graphs), 60),
        tests("determinism", "same bits in 100 runs, on streams and devices", (*marked, determinism), 120),
        tests("scale", "sizes where indices, grids and memory end", (*marked, scale), 210),
        tests("sync", "no host synchronisation", (*marked, sync), 60, alone=True),
        benchmark("benchmarks", "operators against peers and limits", "gpu_targets.py", 130),
        benchmark("end_to_end", "whole detectors", "end_to_end.py", 150),
    ]


ALIASES = {"sanitizers": ("memcheck", "racecheck", "initcheck", "synccheck")}


def choose(stages: Sequence[Stage], asked: str) -> list[Stage]:
    """Those named in a comma-separated list, or all; ValueError for a name there is not."""
    if not asked:
        return list(stages)
    names = [name for word in asked.split(",") for name in ALIASES.get(word.strip(), (word.strip(),))]
    known = [stage.name for stage in stages]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown stage {', '.join(unknown)}; there are {', '.join([*known, *ALIASES])}")
    return [stage for stage in stages if stage.name in names]


# --- the machine


def of_toolkit(program: str) -> str:
    """The path of a program on PATH or beside nvcc, or else its name."""
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    beside = None if nvcc is None else shutil.which(program, path=str(Path(nvcc).resolve().parent))
    return shutil.which(program) or beside or program


def importable(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def why_no_gpu() -> str | None:
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported by {sys.executable} ({error})"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device"
    return None


def machine() -> dict[str, object]:
    """What the results depend on."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import torch
    from _harness import Settings, facts

    found = facts(Settings("cuda"))
    del found["quick"]
    return found | {"gpus": torch.cuda.device_count(), "python_executable": Path(sys.executable).name}


def install_wheels(python: str, folder: Path, target: Path) -> list[str]:
    """Unpacks the folder's wheels into `target`, but for packages that are installed already -> what was done."""
    told = []
    for wheel in sorted(folder.glob("*.whl")):
        name = wheel.name.split("-")[0].replace("_", "-")
        try:
            told.append(f"{name} {importlib.metadata.version(name)} is installed, its wheel was not used")
            continue
        except importlib.metadata.PackageNotFoundError:
            pass
        command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index", "--no-deps",
                   "--find-links", str(folder), "--target", str(target), str(wheel)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        words = (done.stderr or done.stdout).strip().splitlines()
        told.append(f"{name}: used" if done.returncode == 0 else f"{name}: {words[-1] if words else 'pip failed'}")
    return told


# --- the report


def promises(results: dict[str, Result]) -> dict[str, str]:
    """Targets that are a stage's to judge: met, missed or not measured."""
    words = {PASSED: "met", FAILED: "missed"}

    def judged(stage: str) -> str:
        return words.get(results[stage].status, "not measured") if stage in results else "not measured"

    return {
        "every operator and the criterion: no host synchronisation": judged("sync"),
        "every operator and the criterion: in a CUDA graph": judged("graphs"),
        "every operator and the criterion: the same bits every time": judged("determinism"),
        "200,000 x 1000 x 16 matching within 1 GiB, and the other sizes": judged("scale"),
    }


def report(facts: dict[str, object], stages: Sequence[Stage], results: dict[str, Result]) -> dict[str, object]:
    """The JSON."""
    return {
        **facts,
        "targets": promises(results),
        "stages": [
            {"name": stage.name, "title": stage.title}
            | (results[stage.name].as_dict() if stage.name in results else {"status": "pending"})
            for stage in stages
        ],
    }


def markdown(facts: dict[str, object], stages: Sequence[Stage], results: dict[str, Result]) -> str:
    shown = [key for key in ("device", "driver", "torch", "cuda", "commit", "date", "seconds") if key in facts]
    known = ", ".join(f"{key} {facts[key]}" for key in shown)
    lines = ["# GPU check", "", known, "", "| stage | status | seconds | |", "|---|---|--:|---|"]
    for stage in stages:
        result = results.get(stage.name)
        if result is None:
            lines.append(f"| {stage.name}: {stage.title} | pending | | |")
            continue
        words = "; ".join(filter(None, [result.reason, *result.notes])).replace("|", "/").replace("\n", " ")
        lines.append(f"| {stage.name}: {stage.title} | {result.status} | {result.seconds:.0f} | {words} |")
    lines += ["", "| target | |", "|---|---|"]
    lines += [f"| {target} | {word} |" for target, word in promises(results).items()]
    for stage in stages:
        result = results.get(stage.name)
        if result is not None and result.markdown:
            lines += ["", f"## {stage.title}", "", result.markdown.strip()]
    for stage in stages:
        result = results.get(stage.name)
        if result is not None and result.status in (FAILED, CUT) and result.tail:
            lines += ["", f"## {stage.name}: the end of its output", "", "```", result.tail.strip(), "```"]
    return "\n".join(lines) + "\n"


def write_report(out: Path, facts: dict[str, object], stages: Sequence[Stage], results: dict[str, Result], logs: Path):
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_text(json.dumps(report(facts, stages, results), indent=2) + "\n")
    (out / "gpu.md").write_text(markdown(facts, stages, results))
    with (out / "gpu.log").open("w") as everything:
        for stage in stages:
            log = logs / f"{stage.name}.log"
            if stage.name in results and log.exists():
                everything.write(f"===== {stage.name}\n{log.read_text(errors='replace')}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    parser.add_argument("--stages", default="", metavar="NAME,...", help="only these; default: all")
    parser.add_argument("--budget", type=float, default=570, metavar="SECONDS", help="of all stages (%(default)s)")
    parser.add_argument("--jobs", type=int, default=5, help="stages at a time, where they time nothing (%(default)s)")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels of packages this Python lacks")
    args = parser.parse_args(arguments)

    if reason := why_no_gpu():
        print(f"gpu_check: no GPU: {reason}; nothing was run or written", file=sys.stderr)
        return 2
    import torch

    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        work = Path(folder)
        extra, wheels = (), []
        if args.wheels is not None:
            wheels = install_wheels(sys.executable, args.wheels, work / "packages")
            extra = (str(work / "packages"),)
        capability = "{}.{}".format(*torch.cuda.get_device_capability())
        place = Place(sys.executable, work, capability, os.cpu_count() or 1, extra)
        try:
            stages = choose(make_stages(place), args.stages)
        except ValueError as error:
            parser.error(str(error))
        facts = machine() | {"budget_seconds": args.budget, "wheels": wheels}
        print(f"gpu_check: {facts['device']}, torch {facts['torch']}, {len(stages)} stages", flush=True)
        results: dict[str, Result] = {}

        def done(stage: Stage, result: Result) -> None:
            results[stage.name] = result
            words = f": {result.reason}" if result.reason else ""
            print(f"{result.status:8} {result.seconds:6.1f} s  {stage.name}{words}", flush=True)
            for note in result.notes:
                print(f"{'':19}{note}", flush=True)
            facts["seconds"] = round(time.monotonic() - start, 1)
            facts["finished"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            write_report(args.out, facts, stages, results, work)

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        run_stages(stages, budget=args.budget, jobs=args.jobs, logs=work, done=done)
    print(f"gpu_check: {facts['seconds']:.0f} s, written to {args.out}")
    return exit_code(results.values())


if __name__ == "__main__":
    sys.exit(main())
