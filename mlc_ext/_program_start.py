"""Ctrl-C and SIGTERM while a program of this package imports, which takes seconds.

A KeyboardInterrupt raised within an import can be lost: extension modules turn it into an ImportError, and callbacks of
the garbage collector ignore it. Until a program's ``main`` takes over, these signals end the process at once.
"""

import os
import signal
import sys
import threading

_PROGRAMS = {f"{name}.py" for name in "train evaluate predict export report check_data convert divergence".split()}
_HERE = os.path.dirname(os.path.abspath(__file__))


def is_program() -> bool:
    """Whether this process was started as one: a file of this package's detectors/, ``-m mlc_ext.detectors...`` or
    ``mlc-ext``. Programs of others keep their own handling of signals."""
    if sys.argv[0] == "-m":  # the module is not found yet
        after = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
        return bool(after) and after[0].startswith("mlc_ext.detectors")
    return os.path.basename(sys.argv[0]) == "mlc-ext" or any(_is_file(sys.argv[0], path) for path in _program_files())


def _program_files() -> list[str]:
    """Where they are when the package is installed, and in a source tree."""
    tree = os.path.dirname(_HERE)
    parents = [_HERE, tree] if os.path.isdir(os.path.join(tree, "csrc")) else [_HERE]
    return [os.path.join(parent, "detectors", name) for parent in parents for name in _PROGRAMS]


def _is_file(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them is not there
        return False


def _end(number: int, frame: object) -> None:
    try:
        sys.stdout.flush()
    except Exception:  # it may be in use
        pass
    os._exit(130)


if sys.argv and is_program() and threading.current_thread() is threading.main_thread():
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, _end)
