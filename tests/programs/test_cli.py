"""The programs as files, as modules and as the command mlc-ext."""

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


@pytest.mark.parametrize("program", cli.PROGRAMS)
def test_a_program_is_the_same_however_it_is_called(program):
    module = cli.MODULES.get(program, program)
    printed = [
        run(*how, "--help")
        for how in ([DETECTORS / f"{module}.py"], ["-m", f"mlc_ext.detectors.{module}"],
                    ["-m", "mlc_ext.detectors.cli", program])
    ]  # fmt: skip
    assert [each.returncode for each in printed] == [0, 0, 0]
    names = (f"{module}.py", f"{module}.py", f"mlc-ext {program}")
    rest = set()
    for name, each in zip(names, printed, strict=True):
        usage, _, options = each.stdout.partition("\n\n")
        assert usage.startswith(f"usage: {name} ")
        rest.add(options)
    assert len(rest) == 1


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
