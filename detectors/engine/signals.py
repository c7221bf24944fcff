"""Ctrl-C and SIGTERM, deferred to the end of a training step that is the same on all ranks."""

from __future__ import annotations

import signal
import threading

from ..distributed import Vote


class Interruption:
    """Within, SIGINT and SIGTERM raise KeyboardInterrupt; while ``deferring``, :meth:`check` raises it.

    A second signal raises it at once.
    """

    def __init__(self) -> None:
        self.deferring = self._pending = False
        self._vote = Vote()
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if not self.deferring or self._pending:
            raise KeyboardInterrupt
        self._pending = True

    def check(self, *, last: bool = False) -> None:
        """Raises KeyboardInterrupt and ends ``deferring`` if a signal was deferred on any rank.

        All ranks raise it at the same step, the one after the signal. ``last``: no step of this epoch follows.
        """
        if self._vote(self._pending, last=last):
            self.deferring = self._pending = False
            raise KeyboardInterrupt
