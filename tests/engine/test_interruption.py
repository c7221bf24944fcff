"""What ends a training between two steps: signals, also where their exception is lost, and loaders that fail."""

import os
import signal
import threading
import time

import pytest
from small_runs import config_of

from mlc_ext.detectors import interrupts
from mlc_ext.detectors.data.errors import ImageDecodeError, StarvedLoader
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


class Loses:
    """Ctrl-C while this is destroyed: Python ignores the exception."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("second", [False, True])
def test_a_signal_is_lost_while_a_batch_is_waited_for(second):
    """The step after it is whole when the run ends, or a second signal ends it at once: no checkpoint may be saved."""

    def batches():
        yield 0
        Loses()
        yield 1
        yield 2

    begun, ended = [], []
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        interruption.deferring = True
        for batch in interruption.waiting_for(batches()):
            begun.append(batch)
            if batch == 1 and second:
                os.kill(os.getpid(), signal.SIGINT)
            ended.append(batch)
            interruption.check()
    assert begun == [0, 1] and ended == ([0] if second else [0, 1]) and interruption.deferring == second


class Replaced:
    """A trainer's loader whose iterator is another one."""

    def __init__(self, loader, iterate):
        self.loader, self.iterate, self.batches = loader, iterate, list(loader)

    def __iter__(self):
        return self.iterate(self.batches)

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __len__(self):
        return len(self.loader)


@pytest.fixture
def trainer(tmp_path, monkeypatch, threads):
    """Of two epochs of two steps, with an evaluation between them; in tmp_path/run."""
    monkeypatch.chdir(tmp_path)
    config = config_of("fcos_minus_r50", tmp_path / "run", 2, run__correlation=False, run__eval_every=1)
    return Trainer(config, progress=False)


def test_a_run_that_waits_for_ever_ends_with_its_checkpoint(trainer, tmp_path):
    def stuck_after_one(batches):
        yield batches[0]
        signal_in(0.2, signal.SIGTERM)
        time.sleep(60)

    trainer.loader = Replaced(trainer.loader, stuck_after_one)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert state["iteration"] == 1 and state["loader"]["position"] == 1


@pytest.mark.parametrize(
    "error", [StarvedLoader("no batch"), OSError(5, "Input/output error"), ImageDecodeError("no image")], ids=repr
)
@pytest.mark.parametrize("steps", [0, 1])
def test_a_loader_that_fails_between_two_steps_leaves_a_checkpoint(trainer, tmp_path, capsys, error, steps):
    def fails(batches):
        yield from batches[:steps]
        raise error

    trainer.loader = Replaced(trainer.loader, fails)
    with pytest.raises(type(error)) as raised:
        trainer.run()
    assert raised.value is error
    path = tmp_path / "run" / "checkpoint.pt"
    if not steps:
        assert not path.exists() and capsys.readouterr().err == ""
        return
    state = load_checkpoint(path)
    assert state["iteration"] == 1 and state["loader"]["position"] == 1
    assert f"no batch could be loaded: {path} holds iteration 1 of 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [RuntimeError("DataLoader worker (pid 9) is killed by signal: Killed."), OSError(5, "no memory")], ids=repr
)
def test_an_error_within_a_step_saves_nothing(trainer, tmp_path, monkeypatch, error):
    """torch raises the death of a worker anywhere: the weights may be half changed."""
    step = trainer.stepper.step

    def fails(iteration, *batch):
        if iteration == 1:
            raise error
        return step(iteration, *batch)

    monkeypatch.setattr(trainer.stepper, "step", fails)
    with pytest.raises(type(error)):
        trainer.run()
    assert trainer.iteration == 1 and not (tmp_path / "run" / "checkpoint.pt").exists()


def test_an_evaluation_that_fails_loses_no_step(trainer, tmp_path, monkeypatch):
    def fails():
        raise StarvedLoader("no batch came")

    monkeypatch.setattr(trainer, "evaluate", fails)
    with pytest.raises(StarvedLoader):
        trainer.run()
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["iteration"] == 2


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
