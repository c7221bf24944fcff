"""What the command lines of the programs share."""

from __future__ import annotations

import argparse
import sys

from . import distributed


def make_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows ``description`` as it is written.

    Args:
        prog: the name that the program was called by: "train.py" or "mlc-ext train".
    """
    return argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def print_error(prog: str, error: object) -> None:
    """Prints an error, or its text, as one line on stderr, with the rank if it is not 0."""
    rank = distributed.rank()
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"{prog}: {f'rank {rank}: ' if rank else ''}{text}", file=sys.stderr, flush=True)
