"""The package's log in the file of a run; handlers of others are left alone."""

import logging

import pytest

from mlc_ext.detectors.runs.log_file import LOG, hold_log, open_log


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
