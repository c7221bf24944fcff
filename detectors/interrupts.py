"""Ctrl-C and SIGTERM in the programs: exit code 130, also where a KeyboardInterrupt was lost."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator

_received = False
_deferred: list[int] | None = None


def interrupt(number: int, frame: object) -> None:
    """A signal handler: raises KeyboardInterrupt, and remembers it for :func:`check`."""
    global _received
    _received = True
    if _deferred is not None and not _deferred:
        _deferred.append(number)
        return
    raise KeyboardInterrupt


@contextlib.contextmanager
def deferred() -> Iterator[list[int]]:
    """Within, the first call of :func:`interrupt` does not raise: the signal is added to the list. A second one raises.

    For the writing of results that would be lost.
    """
    global _deferred
    _deferred = signals = []
    try:
        yield signals
    finally:
        _deferred = None


def check() -> None:
    """Raises KeyboardInterrupt if :func:`interrupt` has raised one in this program.

    For loops: Python ignores an exception in a callback (a destructor, the garbage collector), and the program would
    continue after Ctrl-C.
    """
    if _received:
        raise KeyboardInterrupt


def delivered() -> None:
    """Forgets an interruption whose KeyboardInterrupt has arrived."""
    global _received
    _received = False


def interruptible(main: Callable[..., int]) -> Callable[..., int]:
    """A program's ``main`` -> exit code, which is 130 after Ctrl-C or, in a single process, SIGTERM.

    Of several ranks SIGTERM ends each at once, outside of training: one that waits for another runs no handler.
    """

    @functools.wraps(main)
    def wrapped(*arguments, **options) -> int:
        global _received
        if threading.current_thread() is not threading.main_thread():  # Python allows handlers only there
            return main(*arguments, **options)
        numbers = [signal.SIGINT] + ([signal.SIGTERM] if int(os.environ.get("WORLD_SIZE", "1")) == 1 else [])
        _received = False
        previous = {number: signal.signal(number, interrupt) for number in numbers}
        try:
            code = main(*arguments, **options)
            return 130 if _received and code == 0 else code
        except KeyboardInterrupt:
            return 130
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            _received = False

    return wrapped
