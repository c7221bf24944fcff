"""The programs as files, as modules and as the command mlc-ext."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlc_ext.detectors import cli

DETECTORS = Path(__file__).resolve().parents[2] / "detectors"


@pytest.fixture(autouse=True)
def same_signals():
    """The end of a program ignores Ctrl-C, and processes of later tests would inherit that."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)


FORKED = """
import importlib, json, os, runpy, sys
cases, modules = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for name in modules:
    importlib.import_module(f"mlc_ext.detectors.{name}")  # once, for all the children below
for number, (how, *arguments) in enumerate(cases):
    if (child := os.fork()) == 0:
        os.dup2(os.open(f"{number}.txt", os.O_WRONLY | os.O_CREAT), 1)
        sys.argv = [how, *arguments]
        try:
            if how.endswith(".py"):
                runpy.run_path(how, run_name="__main__")
            else:
                runpy.run_module(how, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code or 0)  # without the interpreter's teardown
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, (how, arguments)
"""


def ways(program):
    """The file, its module and mlc-ext -> arguments of Python each, and the name in the text of --help."""
    module = cli.MODULES.get(program, program)
    yield [f"{DETECTORS / module}.py"], f"{module}.py"
    yield ["-m", f"mlc_ext.detectors.{module}"], f"{module}.py"
    yield ["-m", "mlc_ext.detectors.cli", program], f"mlc-ext {program}"


def check_help(program, printed):
    """The texts of --help of all ways to call a program differ in its name alone."""
    rest = set()
    for (_, name), text in zip(ways(program), printed, strict=True):
        usage, _, options = text.partition("\n\n")
        assert usage.startswith(f"usage: {name} ")
        rest.add(options)
    assert len(rest) == 1


def test_a_program_is_the_same_however_it_is_called():
    printed = [run(*how, "--help") for how, _ in ways("train")]
    assert [each.returncode for each in printed] == [0, 0, 0]
    check_help("train", [each.stdout for each in printed])


def test_programs_are_the_same_however_they_are_called(tmp_path):
    """As above, without the imports of each: in forks of a process that has made them."""
    cases = [[*how, "--help"] for program in cli.PROGRAMS for how, _ in ways(program)]
    cases = [case[1:] if case[0] == "-m" else case for case in cases]
    modules = [cli.MODULES.get(program, program) for program in cli.PROGRAMS]
    command = [sys.executable, "-c", FORKED, json.dumps(cases), json.dumps(modules)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    texts = [(tmp_path / f"{number}.txt").read_text() for number in range(len(cases))]
    for number, program in enumerate(cli.PROGRAMS):
        check_help(program, texts[3 * number : 3 * number + 3])


def test_the_command_lists_its_programs(monkeypatch, capsys):
    for arguments in ([], ["-h"], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["mlc-ext", *arguments])
        cli.main()
        printed = capsys.readouterr().out
        assert all(f"\n  {program} " in printed for program in cli.PROGRAMS)


def test_an_unknown_program_is_a_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mlc-ext", "trian"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error == f"mlc-ext: unknown program 'trian', there are {', '.join(cli.PROGRAMS)}\n"


def test_without_the_extra_of_the_detectors(monkeypatch, capsys):
    for module in ("pycocotools", "tqdm"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(sys, "argv", ["mlc-ext", "train", "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "mlc-ext: pycocotools, tqdm not found: pip install 'mlc-ext[detectors]'\n"


def test_a_program_s_exit_code_is_the_command_s(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["mlc-ext", "predict", str(tmp_path / "none.pt"), str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and capsys.readouterr().err.startswith("mlc-ext predict: no images in ")
