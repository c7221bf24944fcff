"""Parts side by side in processes of their own, each as soon as what it needs is there."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import signal
import time
from collections.abc import Callable, Sequence

from .features import drop_cache
from .parts import Part
from .work import work


def run_parts(
    parts: Sequence[Part], *, jobs: int, seconds: float | None = None, say: Callable[[str], None] = print
) -> tuple[list[Part], list[Part]]:
    """Does what is not done yet, in order, so many at a time.

    Args:
        seconds: after which the parts in progress are stopped, each with a checkpoint; None: never.

    Returns:
        The parts that failed, with those that need them left undone, and all that are not done.
    """
    context = _context()
    end = None if seconds is None else time.monotonic() + seconds
    done = {part for part in parts if part.done}
    waiting = [part for part in parts if part not in done]
    running: dict[Part, tuple[multiprocessing.process.BaseProcess, float]] = {}
    failed: list[Part] = []
    before = signal.signal(signal.SIGTERM, _interrupt)  # a scheduler's end of time: as Ctrl-C
    try:
        while waiting or running:
            late = end is not None and time.monotonic() >= end
            ready = [part for part in waiting if part.after is None or part.after in done]
            for part in ready if not late else ():
                if len(running) < jobs:
                    waiting.remove(part)
                    process = context.Process(target=work, args=(part,))
                    process.start()
                    running[part] = process, time.monotonic()
            if not running:
                break
            for part in _ended(running, late):
                process, began = running.pop(part)
                if process.exitcode == 0:
                    done.add(part)
                    say(f"{part.name}: {time.monotonic() - began:.0f} s")
                    if part.cached and all(other in done for other in parts if other.stem is part.stem):
                        drop_cache(part.stem.out)  # the maps of a first part that no row needs anymore
                elif not (late and process.exitcode in (130, -signal.SIGTERM)):
                    failed.append(part)
                    say(f"{part.name} failed ({process.exitcode}): {part.out / 'out.txt'} ends with\n{_tail(part)}")
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()
        signal.signal(signal.SIGTERM, before)
    return failed, [part for part in parts if not part.done]


def _context() -> multiprocessing.context.BaseContext:
    """Processes that start with torch already imported, where the system can fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    from multiprocessing import forkserver  # not on Windows

    context.set_forkserver_preload(["torch"])  # no module of the project: it is found by the path of this process
    # A scheduler sends SIGTERM to every process of a job. The server must outlive its children: without it, this
    # process does not wait for them. Blocked signals are inherited; work() unblocks it in the children.
    multiprocessing.resource_tracker.ensure_running()  # which unblocks it when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _ended(running: dict[Part, tuple], late: bool) -> list[Part]:
    """Waits a moment for a part to end; with ``late`` ends all of them, and waits for them."""
    if late:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()
    else:
        multiprocessing.connection.wait([process.sentinel for process, _ in running.values()], timeout=1.0)
    return [part for part, (process, _) in running.items() if process.exitcode is not None]


def _tail(part: Part, lines: int = 12) -> str:
    return "\n".join((part.out / "out.txt").read_text(errors="replace").splitlines()[-lines:])
