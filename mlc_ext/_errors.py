"""Errors of the operators as Python knows them.

The kernels raise through torch's C ABI, which knows only RuntimeError; their messages carry the kind
(csrc/checks.h). `call` gives TypeError and ValueError back.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

_CHECK_FAILED = re.compile(r"mlc_ext\.(ValueError|TypeError): ([^\n]*)")
_SCHEMA_REFUSED = re.compile(r"mlc_ext::(\w+)\(\) (Expected a value of type[^\n]*)")


def call(op, *args):
    """op(*args), with its check failures raised as TypeError or ValueError."""
    if torch.compiler.is_compiling():  # traced: the message is translated by nobody, but still names op and value
        return op(*args)
    try:
        return op(*args)
    except RuntimeError as error:
        text = str(error)
        if found := _CHECK_FAILED.search(text):
            kind = ValueError if found.group(1) == "ValueError" else TypeError
            raise kind(found.group(2)) from None
        if found := _SCHEMA_REFUSED.search(text):
            raise TypeError(f"{found.group(1)}: {found.group(2)}") from None
        raise


def check_tensors(op: str, **arguments: Tensor) -> None:
    """A TypeError for what is no tensor: torch takes None for one and fails obscurely."""
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{op}: {name} must be a Tensor, got {type(value).__name__}")


def check_floating(op: str, name: str, x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"{op}: {name} must be floating point, got {x.dtype}")


def limit(op: str, name: str, value: int | None) -> int:
    """`value`, or -1 for None; a ValueError where it is negative."""
    if value is None:
        return -1
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise TypeError(f"{op}: {name} must be an int or None, got {value!r}")
    if value < 0:
        raise ValueError(f"{op}: {name} must not be negative, got {value}")
    return value


def choice(op: str, name: str, value: str, allowed: tuple[str, ...]) -> str:
    """`value`, or a ValueError that lists what is allowed."""
    if value not in allowed:
        raise ValueError(f"{op}: {name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value
