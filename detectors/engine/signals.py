"""Ctrl-C and SIGTERM, put off until a step is whole and all ranks know."""

from __future__ import annotations

import signal
import threading

from ..distributed import Vote


class Interruption:
    """SIGINT and SIGTERM as KeyboardInterrupt, the first of them put off to :meth:`check` while ``deferring``.

    A second one raises at once.
    """

    def __init__(self) -> None:
        self.deferring = self._pending = False
        self._vote = Vote()
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # only there does Python allow handlers
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
        """Raises KeyboardInterrupt, no longer ``deferring``, if one was put off, on this rank or another; there all
        ranks raise it at the same step, the one after the signal. ``last``: none follows."""
        if self._vote(self._pending, last=last):
            self.deferring = self._pending = False
            raise KeyboardInterrupt
