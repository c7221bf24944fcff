"""Checks of arguments, and the operators' errors as TypeError and ValueError.

The kernels raise through torch's C ABI, which has RuntimeError alone; their messages name the kind of error
(csrc/checks.h).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

_Choice = TypeVar("_Choice", str, str | None)
_CHECK_FAILED = re.compile(r"mlc_ext\.(ValueError|TypeError): ([^\n]*)")
_SCHEMA_REFUSED = re.compile(r"mlc_ext::(\w+)\(\) (Expected a value of type[^\n]*)")


def call(op: Callable[..., Any], *args: object) -> Any:
    """op(*args), with its check failures raised as TypeError or ValueError."""
    if torch.compiler.is_compiling():  # a traced operator raises RuntimeError; its message is the same
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
    """TypeError if an argument is not a tensor. torch accepts None for one and fails later, with an unclear message."""
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{op}: {name} must be a Tensor, got {type(value).__name__}")


def check_floating(op: str, name: str, x: Tensor) -> None:
    """TypeError if a tensor is not floating point."""
    if not x.is_floating_point():
        raise TypeError(f"{op}: {name} must be floating point, got {x.dtype}")


def check_int64(op: str, name: str, x: Tensor) -> None:
    """TypeError if a tensor is not int64."""
    if x.dtype != torch.int64:
        raise TypeError(f"{op}: {name} must be int64, got {x.dtype}")


def check_shape(op: str, name: str, x: Tensor, shape: Sequence[int]) -> None:
    """ValueError if a tensor has another shape."""
    if x.shape != tuple(shape):
        raise ValueError(f"{op}: {name} must have shape {list(shape)}, got {list(x.shape)}")


def check_range(op: str, name: str, x: Tensor, low: int, high: int, note: str = "") -> None:
    """ValueError, with the first wrong value, if an integer tensor has a value outside of low..high. It reads the
    tensor: on CUDA the host waits for it."""
    wrong = x[(x < low) | (x > high)]
    if wrong.numel() > 0:
        raise ValueError(f"{op}: {name} must be in {low}..{high}{note}, got {int(wrong[0])}")


def at_least(op: str, name: str, value: int, low: int) -> None:
    """ValueError if a setting is below its least value."""
    if value < low:
        raise ValueError(f"{op}: {name} must be at least {low}, got {value}")


def limit(op: str, name: str, value: int | None) -> int:
    """The limit as the operators take it: `value`, or -1 for None. ValueError if it is negative."""
    if value is None:
        return -1
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise TypeError(f"{op}: {name} must be an int or None, got {value!r}")
    if value < 0:
        raise ValueError(f"{op}: {name} must not be negative, got {value}")
    return value


def choice(op: str, name: str, value: _Choice, allowed: tuple[_Choice, ...]) -> _Choice:
    """`value`. ValueError, with the list of allowed values, if it is not one of them."""
    if value not in allowed:
        raise ValueError(f"{op}: {name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value
