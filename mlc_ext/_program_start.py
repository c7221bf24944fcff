"""Ctrl-C and SIGTERM while a program of this package imports, which takes seconds.

A KeyboardInterrupt raised within an import can be lost: extension modules turn it into an ImportError, and callbacks of
the garbage collector ignore it. Until a program's ``main`` takes over, these signals end the process at once.
"""

import os
import signal
import sys
import threading

_PROGRAMS = ("train.py", "evaluate.py", "predict.py", "report.py")


def is_program() -> bool:
    """Whether this process was started as one: a file of detectors/, ``-m mlc_ext.detectors...`` or ``mlc-ext``."""
    if sys.argv[0] == "-m":  # the module is not found yet
        after = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
        return bool(after) and after[0].startswith("mlc_ext.detectors")
    folder, name = os.path.split(os.path.abspath(sys.argv[0]))
    return name == "mlc-ext" or (name in _PROGRAMS and os.path.basename(folder) == "detectors")


def _end(number: int, frame: object) -> None:
    try:
        sys.stdout.flush()
    except Exception:  # it may be in use
        pass
    os._exit(130)


if sys.argv and is_program() and threading.current_thread() is threading.main_thread():
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, _end)
