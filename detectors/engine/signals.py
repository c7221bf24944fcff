"""Ctrl-C and SIGTERM in training: they take effect after the same step on all ranks."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

from .. import interrupts
from ..distributed import Vote, world_size

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds that a rank which is to stop waits for its batch, whose step all ranks would take first."""


class Interruption:
    """Within, SIGINT and SIGTERM raise KeyboardInterrupt; while ``deferring``, :meth:`check` raises it.

    A second signal raises it at once. While a batch is waited for (:meth:`waiting_for`) nothing is deferred: the loader
    may never return. With several ranks the wait lasts at most PATIENCE.

    ``wait_failed``: True after an error that was raised while a batch was waited for, so between two steps.
    """

    def __init__(self) -> None:
        self.deferring = self.wait_failed = self._pending = self._waiting = self._overdue = False
        self._vote = Vote()
        self._timer: threading.Timer | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        interrupts.check()
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            interrupts.delivered()
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def waiting_for(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches. A signal that comes while one is waited for ends ``deferring``, as no step is in progress; with
        the next batch it begins again."""
        iterator = iter(batches)
        while True:
            self._waiting = True
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except Exception:
                self.wait_failed = True
                raise
            finally:
                self._waiting = False
            self.deferring = True  # a signal's exception may have been lost
            yield batch

    def _handle(self, number: int, frame: object) -> None:
        if self._overdue and not self._waiting:  # the batch came at the last moment: check() follows
            self._overdue = False
            return
        second, self._pending = self._pending, True
        if self._waiting and (self._overdue or world_size() == 1):
            self.deferring = False
        if second or not self.deferring:
            interrupts.interrupt(number, frame)
        if world_size() > 1:
            self._timer = threading.Timer(PATIENCE, self._stop_waiting)
            self._timer.daemon = True
            self._timer.start()

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._overdue = True
            os.kill(os.getpid(), signal.SIGTERM)

    def check(self, *, last: bool = False) -> None:
        """Raises KeyboardInterrupt and ends ``deferring`` if a signal was deferred, or its exception lost, on any rank.

        All ranks raise it at the same step, the one after the signal. ``last``: no step of this epoch follows.
        """
        if self._vote(self._pending, last=last):
            self.deferring = self._pending = False
            raise KeyboardInterrupt
