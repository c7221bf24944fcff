#!/usr/bin/env python3
"""Everything that needs a GPU, in two calls: python3 tools/gpu_check.py --out DIR 1, then the same with 2

Each builds with this interpreter and without a network, runs its stages (GROUPS) and ends after 540 s. Stages that do
not measure time run side by side. A failed stage does not stop the others; without the build, nothing runs. DIR gets
NAME.log of each stage, and gpu.json and gpu.md, rewritten when a stage ends; results of earlier calls in DIR are kept,
merged by the names of stages. MLC_COMMIT names the commit where there is no git.

--dry-run needs no GPU: it prints all commands and tries what can run without one; results go to DIR/dry_run.
Exit status: 0 all stages passed, 1 one failed or ran out of time, 2 no GPU, 3 none failed, but one could not be run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "mlc_ext"))
import _build_flags  # noqa: E402  (shared with setup.py; without torch)

PASSED, FAILED, CUT, NOT_RUN = "passed", "failed", "out of time", "not run"
GROUPS = {
    "1": ("build", "tests", "graphs", "determinism", "sync", "benchmarks", "end_to_end"),
    "2": ("build", "memcheck", "racecheck", "initcheck", "synccheck", "kernels", "scale"),
    "sanitizers": ("memcheck", "racecheck", "initcheck", "synccheck"),
}
ALLOWED_SKIPS = ("needs two GPUs", "collection skipped")  # the latter is pytest's of a module without its package


def judge(files: Path, code: int) -> tuple[str, str]:
    """(path of the stage's files without their suffix, exit status) -> (status, note)"""
    return {0: (PASSED, ""), 3: (NOT_RUN, "what it needs is not here")}.get(code, (FAILED, f"exit status {code}"))


def judge_tests(files: Path, code: int) -> tuple[str, str]:
    """Fails for failed tests and for skips, except ALLOWED_SKIPS."""
    cases = list(ET.parse(files.with_suffix(".xml")).iter("testcase"))
    failed = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skips = Counter(f"{s.get('message')} {s.text or ''}" for case in cases for s in case.iter("skipped"))
    ran = len(cases) - skips.total()
    left_out = re.findall(r"^left out: .*$", files.with_suffix(".log").read_text(errors="replace"), re.MULTILINE)
    skipped = [f"skipped {count}: {' '.join(reason.split())}" for reason, count in skips.items()]
    note = "; ".join([f"{ran} tests ran", *skipped, *left_out])
    if failed:
        return FAILED, f"{len(failed)} tests failed ({', '.join(failed[:3])}); {note}"
    if code not in (0, 5) or any(not reason.startswith(ALLOWED_SKIPS) for reason in skips):
        return FAILED, f"exit status {code}; {note}"
    return PASSED if ran else NOT_RUN, note


def judge_sanitizer(files: Path, code: int) -> tuple[str, str]:
    """compute-sanitizer's own summary. That it does not support the device is neither a failure nor a pass."""
    text = files.with_suffix(".log").read_text(errors="replace")
    found = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", text)
    if re.search(r"Device not supported|Unable to find injection library", text):
        return NOT_RUN, "compute-sanitizer does not support this device"
    if not found or "sanitizer_cases:" not in text:
        return FAILED, f"exit status {code}, no summary of all cases"
    return PASSED if code == 0 and found[-1].startswith("0 ") else FAILED, found[-1]


def judge_benchmark(files: Path, code: int) -> tuple[str, str]:
    """A missed target does not fail the stage; a trial on the CPU is no result."""
    record = json.loads(files.with_suffix(".json").read_text())
    words = Counter(verdict["verdict"] for verdict in record["verdicts"])
    note = f"exit status {code}; targets: {', '.join(f'{count} {word}' for word, count in words.items())}"
    return FAILED if code or record["trial"] else PASSED, note + "; a trial, not on the GPU" * record["trial"]


@dataclass(frozen=True, eq=False)
class Stage:
    name: str
    command: tuple[str, ...]
    limit: float  # seconds
    environment: dict[str, str] = field(default_factory=dict)
    judge: Callable[[Path, int], tuple[str, str]] = judge
    alone: bool = False  # nothing may run beside it: it measures time, or the others need it
    trial: tuple[str, ...] | None = None  # what --dry-run tries without a GPU


def make_stages(out: Path, architecture: str) -> list[Stage]:
    """All, in the order they run."""
    python, cores = sys.executable, os.cpu_count() or 1
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    common = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    cases = (python, "tools/sanitizer_cases.py")

    def tests(name: str, limit: float, *arguments: str, alone: bool = False) -> Stage:
        strict = common | {"MLC_FAIL_WITHOUT_CUDA": "1", "MLC_LEAVE_OUT_TESTS": "1", "OMP_NUM_THREADS": "4"}
        selection = arguments or ("-m", "cuda", f"tests/cuda/test_cuda_{name}.py")
        command = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=10", *selection)
        report = f"--junitxml={out / name}.xml"
        return Stage(name, (*command, report), limit, strict, judge_tests, alone, (*command, "--collect-only"))

    def sanitizer(tool: str, limit: float, *options: str) -> Stage:
        watcher = path_of("compute-sanitizer") or "compute-sanitizer"
        command = (watcher, "--tool", tool, "--error-exitcode", "9", "--print-limit", "20", *options, *cases)
        return Stage(tool, command, limit, common | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, judge_sanitizer)

    def benchmark(name: str, limit: float, script: str, *small: str) -> Stage:
        base = (python, f"benchmarks/{script}", "--json", f"{out / name}.json", "--markdown", f"{out / name}.md")
        trial = (*base, "--device", "cpu", *small)
        return Stage(name, (*base, "--device", "cuda"), limit, common, judge_benchmark, True, trial)

    loads = "import mlc_ext; assert mlc_ext._C_cuda is not None, '_C_cuda is missing'; print(mlc_ext.build_info())"
    build = ("bash", "-c", f"'{python}' setup.py -q build_ext --inplace && '{python}' -c \"{loads}\"")
    flags = common | {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": architecture, "MAX_JOBS": str(cores)}
    workers = ("-n", str(min(4, cores))) if importlib.util.find_spec("xdist") else ()
    others = [f"--ignore=tests/cuda/test_cuda_{name}.py" for name in ("graphs", "determinism", "scale", "sync")]
    return [
        Stage("build", build, 240, flags, alone=True, trial=build),
        tests("tests", 240, *workers, "-m", "cuda and not slow", *others),
        tests("graphs", 90),
        tests("determinism", 150),
        sanitizer("memcheck", 330, "--report-api-errors", "no"),  # torch asks the driver what it may not know
        sanitizer("racecheck", 240, "--kernel-name", "kns=mlc"),  # of our kernels alone: torch's take most of the time
        sanitizer("initcheck", 330),
        sanitizer("synccheck", 240, "--kernel-name", "kns=mlc"),
        Stage("kernels", (*cases, "--kernels"), 90, common, trial=(*cases, "--device", "cpu")),
        tests("scale", 330),
        tests("sync", 60, alone=True),
        benchmark("benchmarks", 150, "gpu_targets.py", "--quick"),
        benchmark("end_to_end", 180, "end_to_end.py", "--short-side", "32", "--batch-size", "1", "--rounds", "1"),
    ]


def choose(stages: list[Stage], asked: str) -> list[Stage]:
    """Stages of a comma-separated list of names and GROUPS."""
    names = {name for word in asked.split(",") for name in GROUPS.get(word, (word,))}
    if unknown := names - {stage.name for stage in stages}:
        raise SystemExit(f"no stage {', '.join(unknown)}; there are {', '.join([*GROUPS, *(s.name for s in stages)])}")
    return [stage for stage in stages if stage.name in names]


def run_stages(stages: list[Stage], out: Path, budget: float, finished: Callable[..., None]) -> None:
    """Runs all in `budget` seconds; calls finished(stage, status, note, seconds) as each ends."""
    end = time.monotonic() + budget
    waiting, running, built = list(stages), {}, True
    try:
        while waiting or running:
            while waiting and not (running and any(stage.alone for stage in (waiting[0], *running))):
                stage, now = waiting.pop(0), time.monotonic()
                if not built or shutil.which(stage.command[0]) is None:
                    finished(stage, NOT_RUN, f"no {stage.command[0]}" if built else "the build did not pass", 0.0)
                    continue
                with (out / f"{stage.name}.log").open("wb") as log:
                    streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True}
                    process = subprocess.Popen(stage.command, cwd=ROOT, env=os.environ | stage.environment, **streams)
                running[stage] = process, now, min(now + stage.limit, end)
            for stage, (process, began, until) in list(running.items()):
                code, now = process.poll(), time.monotonic()
                if code is None and now < until:
                    continue
                end_group(process)
                del running[stage]
                try:
                    late = CUT, f"ended after {now - began:.0f} s"
                    status, note = late if code is None else stage.judge(out / stage.name, code)
                except Exception as error:  # it ended before it wrote its files
                    status, note = FAILED, f"exit status {code}, no result: {type(error).__name__}: {error}"
                built = built and (stage.name != "build" or status == PASSED)
                finished(stage, status, note, now - began)
            time.sleep(0.05)
    finally:  # interrupted: nothing is left running
        for process, *_ in running.values():
            end_group(process)


def end_group(process: subprocess.Popen) -> None:
    """Ends a process, if it runs, and those it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(timeout=3.0)


def path_of(program: str) -> str | None:
    """On PATH, or in the CUDA toolkit that the build uses."""
    home = _build_flags.cuda_home()
    return shutil.which(program) or (shutil.which(program, path=os.path.join(home, "bin")) if home else None)


def machine(device: str) -> dict[str, object]:
    """What builds and results depend on."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from _harness import Settings, facts

    version = {found.metadata["Name"]: found.version for found in importlib.metadata.distributions()}
    found = {name: version.get(name) for name in ("torchvision", "setuptools", "pybind11", "pytest", "pycocotools")}
    found |= {name: path_of(name) for name in ("nvcc", "compute-sanitizer", "c++", "ninja", "make")}
    found["CUDA_HOME"] = _build_flags.cuda_home()
    return facts(Settings(device)) | found


def write_report(report: dict, out: Path) -> None:
    calls = [", ".join(f"{key} {value}" for key, value in call.items()) + "\n" for call in report["calls"]]
    lines = ["# GPU check\n", *calls, "| stage | status | seconds | |", "|---|---|--:|---|"]
    for name in dict.fromkeys(name for call in report["calls"] for name in call["stages"]):
        result = report["stages"].get(name, {"status": "not finished", "seconds": "", "note": ""})
        lines.append(f"| {name} | {result['status']} | {result['seconds']} | {result['note'].replace('|', '/')} |")
    for name, result in report["stages"].items():
        table, log = out / f"{name}.md", out / f"{name}.log"
        if result["status"] == PASSED and table.exists():
            lines += ["", f"## {name}", "", table.read_text().strip()]
        elif result["status"] in (FAILED, CUT) and log.exists():
            lines += ["", f"## {name}: the end of its log", "", "```", log.read_text(errors="replace")[-4000:], "```"]
    for name, text in (("gpu.md", "\n".join(lines) + "\n"), ("gpu.json", json.dumps(report, indent=2) + "\n")):
        (out / f"{name}.new").write_text(text)
        os.replace(out / f"{name}.new", out / name)  # whole at any time


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", help=f"{', '.join(GROUPS)}, or names of stages, separated by commas")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    parser.add_argument("--budget", type=float, default=540.0, metavar="SECONDS", help="of the call (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU: print the commands, try what can run")
    args = parser.parse_args(arguments)
    import torch

    start = time.monotonic()
    if not args.dry_run and not torch.cuda.is_available():
        print(f"gpu_check: torch {torch.__version__} sees no GPU; nothing was run or written", file=sys.stderr)
        return 2
    out = (args.out / "dry_run" if args.dry_run else args.out).resolve()
    capability = (9, 0) if args.dry_run else torch.cuda.get_device_capability()
    stages = choose(make_stages(out, "{}.{}".format(*capability)), args.stages)
    if args.dry_run:
        for s in stages:
            print(f"{s.name}, at most {s.limit:.0f} s, {s.environment}:\n    {shlex.join(s.command)}")
        stages = [replace(s, command=s.trial, judge=judge, limit=args.budget) for s in stages if s.trial]
    out.mkdir(parents=True, exist_ok=True)
    facts = machine("cpu" if args.dry_run else "cuda") | {"stages": [stage.name for stage in stages]}
    print("gpu_check: " + ", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    earlier = out / "gpu.json"
    report = json.loads(earlier.read_text()) if earlier.exists() else {"calls": [], "stages": {}}
    report["calls"].append(facts)
    write_report(report, out)

    def finished(stage: Stage, status: str, note: str, seconds: float) -> None:
        print(f"{status:11} {seconds:6.1f} s  {stage.name}: {note}", flush=True)
        facts["seconds"] = round(time.monotonic() - start, 1)
        result = {key: facts[key] for key in ("device", "commit", "date")} | {"command": shlex.join(stage.command)}
        report["stages"][stage.name] = result | {"status": status, "note": note, "seconds": round(seconds, 1)}
        write_report(report, out)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_stages(stages, out, args.budget - (time.monotonic() - start), finished)
    statuses = {report["stages"][stage.name]["status"] for stage in stages}
    return 1 if statuses & {FAILED, CUT} else 3 if NOT_RUN in statuses else 0


if __name__ == "__main__":
    sys.exit(main())
