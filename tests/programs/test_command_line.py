"""Which errors a program reports in a line, with which exit code, and on which ranks."""

import sys
from pathlib import Path

import pytest
from small_runs import DETECTORS

from mlc_ext.detectors import distributed
from mlc_ext.detectors.command_line import command, print_error, program_errors, say, text_table
from mlc_ext.detectors.data.errors import DataError, DatasetNotFound, StarvedLoader
from mlc_ext.detectors.distributed import LostPeer, SetupError
from mlc_ext.detectors.engine.nonfinite import NonFiniteLoss


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (1, NonFiniteLoss("nan")), (1, LostPeer("gone")), (2, ValueError("no")), (2, SetupError("no")),
        (2, FileNotFoundError(2, "No such file", "x")), (2, ImportError("no timm")), (2, DataError("no image")),
        (2, StarvedLoader("no batch")),
    ],
    ids=repr,
)  # fmt: skip
def test_errors_for_the_user_end_the_block_and_are_reported(code, error):
    reported = []
    with program_errors(reported.append) as ending:
        raise error
    assert ending.code == code and reported == [error]


def test_the_death_of_a_worker_is_an_error_of_the_data():
    reported = []
    with program_errors(reported.append) as ending:
        raise RuntimeError("DataLoader worker (pid 9) is killed by signal: Killed.")
    assert ending.code == 2 and isinstance(reported[0], DataError) and "pid 9" in str(reported[0])


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("a bug"), KeyboardInterrupt()], ids=repr)
def test_everything_else_is_raised(error):
    with pytest.raises(type(error)) as raised, program_errors(lambda _: pytest.fail("reported")):
        raise error
    assert raised.value is error


def test_without_an_error_the_code_is_0():
    with program_errors(lambda _: pytest.fail("reported")) as ending:
        pass
    assert ending.code == 0


@pytest.mark.parametrize(
    ("rank", "error", "line"),
    [
        (0, SetupError("no  data\nthere"), "p: no data there\n"), (0, LostPeer("gone"), "p: gone\n"),
        (1, SetupError("no data"), ""), (1, LostPeer("gone"), ""), (1, ValueError("no"), "p: rank 1: no\n"),
        (0, MemoryError(), "p: MemoryError\n"), (0, DatasetNotFound("a\n  b"), "p: a\n  b\n"),
    ],
)  # fmt: skip
def test_rank_0_prints_the_errors_of_all(monkeypatch, capsys, rank, error, line):
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    print_error("p", error)
    assert capsys.readouterr().err == line


def test_rank_0_prints_on_stdout(monkeypatch, capsys):
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        say(f"rank {rank}\n")
    assert capsys.readouterr().out == "rank 0\n\n"


def test_an_error_of_stdout_that_is_not_a_closed_pipe_is_raised(monkeypatch):
    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OSError, match="No space left"):
        say("text")


def test_the_next_command_is_named_as_this_one_was_called(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [str(DETECTORS / "train.py")])
    assert command("train.py", "report", "runs/a b") == f"python {DETECTORS / 'report.py'} 'runs/a b'"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mlc-ext", "train"])
    assert command("mlc-ext train", "report", Path("runs/a")) == "mlc-ext report runs/a"
    monkeypatch.setattr(sys, "argv", ["-c"])  # main() called from a program of the user
    assert command("train.py", "evaluate", "x.pt") == "mlc-ext evaluate x.pt"


def test_of_several_ranks_too_the_lines_stay(capsys):
    error = SetupError("a\n  b")
    error.__cause__ = DatasetNotFound("a\n  b")
    print_error("p", error)
    assert capsys.readouterr().err == "p: a\n  b\n"


def test_a_table_is_aligned():
    assert text_table([("class", "n"), ("a", "10"), ("longer", "")]) == ["class    n", "a       10", "longer"]
