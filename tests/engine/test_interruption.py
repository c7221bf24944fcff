"""Signals in training: while a batch is waited for, and where the exception of Ctrl-C is lost."""

import os
import signal
import threading
import time

import pytest
from small_runs import config_of

from mlc_ext.detectors import interrupts
from mlc_ext.detectors.engine import signals
from mlc_ext.detectors.engine.signals import Interruption
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.runs.checkpoint import load_checkpoint


def signal_in(seconds, number):
    timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
    timer.start()
    return timer


def stuck():
    """Two batches, then none ever."""
    yield from "ab"
    time.sleep(60)
    raise AssertionError("the signal was deferred")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_loader_that_never_returns(number):
    seen, timer = [], None
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        interruption.deferring = True
        for batch in interruption.waiting_for(stuck()):
            seen.append(batch)
            timer = timer or signal_in(0.5, number)
            interruption.check()
    assert seen == ["a", "b"] and not interruption.deferring  # a checkpoint may be saved
    interrupts.check()  # it has arrived


def test_one_of_several_ranks_waits_for_a_while(monkeypatch):
    monkeypatch.setattr(signals, "world_size", lambda: 2)
    monkeypatch.setattr(signals, "PATIENCE", 1.0)
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        interruption.deferring = True
        for batch in interruption.waiting_for(stuck()):
            if batch == "b":  # a second signal would end the wait at once
                began = time.monotonic()
                signal_in(0.1, signal.SIGTERM)
    assert time.monotonic() - began >= 1.0 and not interruption.deferring


def test_a_signal_within_a_step_is_deferred_to_its_end():
    steps = []
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        interruption.deferring = True
        for step in interruption.waiting_for(range(5)):
            if step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            steps.append(step)
            interruption.check()
    assert steps == [0, 1, 2]


def test_a_run_that_waits_for_ever_ends_with_its_checkpoint(tmp_path, monkeypatch, threads):
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(config_of("fcos_minus_r50", tmp_path / "run", 2, run__correlation=False), progress=False)

    class Stuck:
        def __iter__(self):
            yield batches[0]
            signal_in(0.2, signal.SIGTERM)
            time.sleep(60)

        def __getattr__(self, name):
            return getattr(loader, name)

        def __len__(self):
            return len(loader)

    loader = trainer.loader
    batches = list(loader)
    trainer.loader = Stuck()
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert state["iteration"] == 1 and state["loader"]["position"] == 1


class Loses:
    """Ctrl-C while this is destroyed: Python ignores the exception."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_lost_exception_ends_the_loop_and_the_program():
    steps = []

    @interrupts.interruptible
    def main(checked):
        for step in range(5):
            if checked:
                interrupts.check()
            if step == 2:
                Loses()
            steps.append(step)
        return 0

    before = signal.getsignal(signal.SIGINT)
    assert main(True) == 130 and steps == [0, 1, 2]
    assert main(False) == 130 and steps[3:] == [0, 1, 2, 3, 4]
    assert signal.getsignal(signal.SIGINT) is before
    interrupts.check()


def test_an_error_after_ctrl_c_keeps_its_code():
    @interrupts.interruptible
    def main():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            return 2

    assert main() == 2
