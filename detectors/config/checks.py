"""Ranges of settings, checked when a configuration is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Range:
    """Finite numbers from ``low`` to ``high``; an end that is open does not belong to it."""

    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.low_open else f"at least {self.low:g}"
        if self.low_open or self.high_open:
            return f"in {'(' if self.low_open else '['}{self.low:g}, {self.high:g}{')' if self.high_open else ']'}"
        return f"in {self.low:.10g}..{self.high:.20g}"


POSITIVE = Range(0, low_open=True)
NOT_NEGATIVE = Range(0)
SHARE = Range(0, 1)
COUNT = Range(1)


def check_numbers(section: str, settings: object, **ranges: Range) -> None:
    """ValueError for the first setting outside its range; None is allowed where the type allows it, and of several
    numbers each is checked."""
    for name, allowed in ranges.items():
        value = getattr(settings, name)
        several = isinstance(value, tuple)
        for number, each in enumerate(value if several else (value,)):
            if each is None and _may_be_none(settings, name):
                continue
            if each not in allowed:
                index = f"[{number}]" if several and len(value) > 1 else ""
                optional = " or None" if _may_be_none(settings, name) else ""
                raise ValueError(f"{section}.{name}{index} must be {allowed}{optional}, got {each!r}")


def check_choices(section: str, settings: object, **choices: Sequence[str]) -> None:
    """ValueError for the first setting that is none of its choices; None as for :func:`check_numbers`."""
    for name, allowed in choices.items():
        value, optional = getattr(settings, name), _may_be_none(settings, name)
        if value not in allowed and not (value is None and optional):
            listed = ", ".join(map(repr, allowed)) + (" or None" if optional else "")
            raise ValueError(f"{section}.{name} must be one of {listed}, got {value!r}")


def check_texts(section: str, settings: object) -> None:
    """ValueError for a text that is blank, such as an unset variable of a shell, or has a null character."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and (not text.strip() or "\0" in text):
                raise ValueError(f"{section}.{field.name} must not be empty or contain a null character, got {text!r}")


def _may_be_none(settings: object, name: str) -> bool:
    """Whether the annotation is ``... | None`` (a text: annotations are not evaluated)."""
    return str(next(f.type for f in dataclasses.fields(settings) if f.name == name)).endswith("| None")
