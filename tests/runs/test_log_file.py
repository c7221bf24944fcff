"""The package's log in the file of a run; handlers of others are left alone."""

import logging
import subprocess
import sys

import pytest

from mlc_ext.detectors import divergence, evaluate, predict, report, train
from mlc_ext.detectors.runs.log_file import LOG, hold_log, open_log, show_warnings


@pytest.fixture(autouse=True)
def as_before():
    handlers, level = list(LOG.handlers), LOG.level
    LOG.handlers.clear()
    yield
    for handler in LOG.handlers:
        handler.close()
    LOG.handlers[:] = handlers
    LOG.setLevel(level)


def lines(path):
    """Without the times."""
    return [line.split(" ", 2)[2] for line in path.read_text().splitlines()]


def test_each_run_has_its_own_file_and_other_handlers_stay(tmp_path):
    seen = []
    mine = logging.Handler()
    mine.emit = lambda record: seen.append(record.getMessage())
    LOG.addHandler(mine)
    for name in ("one", "two"):
        open_log(tmp_path / name)
        LOG.info("in %s", name)
        logging.getLogger("mlc_ext.detectors.data.coco.dataset").warning("also in %s", name)
    assert [lines(tmp_path / name) for name in ("one", "two")] == [[f"in {n}", f"also in {n}"] for n in ("one", "two")]
    assert mine in LOG.handlers and seen == ["in one", "also in one", "in two", "also in two"]


def test_what_is_logged_before_the_file_is_written_there_first(tmp_path, capsys):
    hold_log()
    hold_log()
    LOG.warning("early")
    assert capsys.readouterr().err == ""
    open_log(tmp_path / "log.txt")
    LOG.info("late")
    open_log(tmp_path / "next.txt")
    assert lines(tmp_path / "log.txt") == ["early", "late"] and (tmp_path / "next.txt").read_text() == ""


def test_a_file_of_warnings_is_made_by_the_first(tmp_path):
    path = tmp_path / "log_rank1.txt"
    open_log(path, logging.WARNING)
    LOG.info("of no interest")
    assert not path.exists()
    LOG.warning("broken image")
    assert lines(path) == ["broken image"]
    open_log(path)  # appended to
    LOG.info("resumed")
    assert lines(path) == ["broken image", "resumed"]


def test_a_folder_that_is_gone_is_reported_once(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "log_rank1.txt"
    open_log(path, logging.WARNING)
    path.parent.rmdir()
    LOG.warning("broken image")
    LOG.warning("another")
    assert [line for line in capsys.readouterr().err.splitlines() if str(path) in line] == [
        f"{path}: [Errno 2] No such file or directory: '{path}'"
    ]


def test_a_file_of_warnings_takes_no_other_record_of_those_held(tmp_path):
    hold_log()
    LOG.info("of no interest")
    open_log(tmp_path / "log_rank1.txt", logging.WARNING)
    assert not (tmp_path / "log_rank1.txt").exists()
    LOG.warning("broken image")
    assert lines(tmp_path / "log_rank1.txt") == ["broken image"]


def test_warnings_alone_are_printed_and_once(tmp_path, capsys):
    hold_log()
    for _ in range(2):
        show_warnings()
    open_log(tmp_path / "log.txt")
    LOG.info("summary")
    logging.getLogger("mlc_ext.detectors.data.build").warning("2 of 4 %s are left out", "images")
    LOG.error("printed by the program")
    assert capsys.readouterr().err == "warning: 2 of 4 images are left out\n"
    assert lines(tmp_path / "log.txt") == ["summary", "2 of 4 images are left out", "printed by the program"]


@pytest.mark.parametrize(("ranks", "rank", "printed"), [(2, 0, True), (2, 1, False), (1, 1, True)])
def test_rank_0_prints_before_the_process_group_exists(monkeypatch, capsys, ranks, rank, printed):
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    monkeypatch.setenv("RANK", str(rank))
    show_warnings()
    LOG.warning("renamed")
    assert capsys.readouterr().err == "warning: renamed\n" * printed


def test_a_closed_terminal_does_not_end_the_run(monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    show_warnings()
    LOG.warning("unread")


@pytest.mark.parametrize("program", [train, evaluate, predict, report, divergence])
def test_every_program_prints_warnings(program, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    absent = {train: ["--data", "absent"], predict: ["absent.pt", "absent.png"], divergence: ["absent", "absent"]}.get(
        program, ["absent"]
    )
    assert program.main(absent) == 2
    capsys.readouterr()
    LOG.warning("relabeled")
    assert capsys.readouterr().err == "warning: relabeled\n"


LIBRARY = """
import logging, sys
from mlc_ext.detectors.runs.log_file import LOG, open_log, show_warnings
{setting}
LOG.warning("before")
open_log(sys.argv[1])
LOG.warning("after")
"""


@pytest.mark.parametrize(
    ("setting", "printed"),
    [
        ("", ["before", "warning: after"]),  # the first by Python's handler of last resort
        ("show_warnings()", ["warning: before", "warning: after"]),
        ("logging.basicConfig(); show_warnings()", [f"WARNING:mlc_ext.detectors:{w}" for w in ("before", "after")]),
        ("logging.basicConfig()", [f"WARNING:mlc_ext.detectors:{w}" for w in ("before", "after")]),
        ("logging.basicConfig(filename=sys.argv[1] + '2')", []),
        ("logging.basicConfig(filename=sys.argv[1] + '2'); show_warnings()", ["warning: before", "warning: after"]),
    ],
)
def test_each_warning_is_printed_once_whatever_handlers_there_are(tmp_path, setting, printed):
    command = [sys.executable, "-c", LIBRARY.format(setting=setting), str(tmp_path / "log.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == printed and lines(tmp_path / "log.txt") == ["after"]
