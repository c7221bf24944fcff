"""What the command lines of the programs share."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from . import distributed
from .data.errors import DataError, DatasetNotFound
from .data.loading.worker_processes import death_of_worker
from .engine.nonfinite import NonFiniteLoss
from .interrupts import interruptible
from .runs.log_file import show_warnings


@dataclass
class Ending:
    """How the block of :func:`program_errors` ended."""

    code: int = 0
    """The program's exit code: 0; 1 if the training failed; 2 if options or data cannot be used."""


class _Parser(argparse.ArgumentParser):
    def print_help(self, file: IO[str] | None = None) -> None:
        if file is None:
            say(self.format_help().rstrip("\n"))
        else:
            super().print_help(file)


def make_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows ``description`` as it is written.

    Args:
        prog: the name that the program was called by: "train.py" or "mlc-ext train".
    """
    return _Parser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def command(prog: str, program: str, *arguments: object) -> str:
    """The command line of another program, in the way that this one was called.

    Args:
        prog: the name that this program was called by.
    """
    called = Path(sys.argv[0])
    file = called.with_name(f"{program}.py")
    words = ["python", str(file)] if called.name == prog and file.is_file() else ["mlc-ext", program]
    return " ".join([*words, *(shlex.quote(str(argument)) for argument in arguments)])


def say(text: str) -> None:
    """Prints ``text`` and a newline on stdout, only on rank 0. All programs print there by this function.

    If the reader of a pipe has closed it, as ``head`` does, this text and later ones are discarded: the program goes on
    and keeps its exit code.
    """
    if not distributed.is_main():
        return
    try:
        print(text, flush=True)
    except BrokenPipeError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())  # what the stream still holds is written there
        os.close(null)


def print_error(prog: str, error: object) -> None:
    """Prints an error, or its text, as one line on stderr, with the rank if it is not 0. DatasetNotFound keeps its
    lines.

    An error that all ranks have is printed by rank 0 only.
    """
    rank = distributed.rank()
    if rank and isinstance(error, (distributed.SetupError, distributed.LostPeer)):
        return
    has_lines = isinstance(error, DatasetNotFound) or isinstance(getattr(error, "__cause__", None), DatasetNotFound)
    text = str(error) if has_lines else " ".join(str(error).split()) or type(error).__name__
    print(f"{prog}: {f'rank {rank}: ' if rank else ''}{text}", file=sys.stderr, flush=True)


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: the first column left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


@contextlib.contextmanager
def program_errors(report: Callable[[Exception], None]) -> Iterator[Ending]:
    """Within, errors whose message is for the user end the block and are passed to ``report``; a bug is raised.

    The death of a loader's worker is reported as DataError: torch raises it anywhere in the block.
    """
    ending = Ending()
    try:
        yield ending
    except (NonFiniteLoss, distributed.LostPeer) as error:
        ending.code = 1
        report(error)
    except (ValueError, OSError, ImportError, DataError) as error:
        ending.code = 2
        report(error)
    except RuntimeError as error:
        if (died := death_of_worker(error)) is None:
            raise
        ending.code = 2
        report(died)


def program_main(
    name: str, parse: Callable[[list[str] | None, str], argparse.Namespace]
) -> Callable[[Callable[[argparse.Namespace, str], int]], Callable[..., int]]:
    """Decorates a function of a program's options and of the name that it was called by, -> exit code.

    The result is the program's ``main``: it prints warnings, reports errors by :func:`program_errors`, and ends with
    130 after Ctrl-C.

    Args:
        name: that of the program's file.
        parse: a function of the arguments and the name that the program was called by.
    """

    def decorate(run: Callable[[argparse.Namespace, str], int]) -> Callable[..., int]:
        @interruptible
        def main(arguments: list[str] | None = None, prog: str = name) -> int:
            options = parse(arguments, prog)
            show_warnings()
            with program_errors(functools.partial(print_error, prog)) as ending:
                ending.code = run(options, prog)
            return ending.code

        return main

    return decorate


def counted_reasons(counts: Iterable[tuple[str, int]], examples: Mapping[str, str]) -> list[str]:
    """A line for each (reason, count) with its first place."""
    return [
        f"{count} {reason}" + (f", first {examples[reason]}" if reason in examples else "") for reason, count in counts
    ]
