"""Values of a JSON as ids, names, flags, sides and coordinates; None for values that cannot be used."""

from __future__ import annotations

import json
import math
from typing import Any

_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}


def as_id(value: Any) -> int | None:
    """An integer of 64 bits, as numpy and pycocotools hold it. 3.0 is 3, as in pycocotools, whose dictionaries do not
    distinguish them; a text or a truth value is no id."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63 else None


def as_side(value: Any) -> int | None:
    """A positive number of pixels below 2**31."""
    side = as_id(value)
    return side if side is not None and 0 < side < 2**31 else None


def as_flag(value: Any) -> bool | None:
    """A truth value: a boolean, null (false), a whole number (false if 0, as in pycocotools), or one of the texts "1",
    "true", "yes", "0", "false", "no" and "" in any case. Other values, such as 0.5 and "2", are None."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str):
        return _FLAGS.get(value.strip().lower())
    number = as_id(value)
    return None if number is None else number != 0


def as_name(value: Any) -> str | None:
    """A name as text. One that is not text (0, false, ["cat"]) is used as its JSON text; null and blank text are no
    name. Half a surrogate pair, which no terminal or file takes, is escaped."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode() if text.strip() else None


def as_numbers(values: Any, count: int) -> list[float] | None:
    """A list of `count` finite floats."""
    if not isinstance(values, (list, tuple)) or len(values) != count:
        return None
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        return None
    try:
        numbers = [float(v) for v in values]
    except OverflowError:
        return None
    return numbers if all(math.isfinite(v) for v in numbers) else None
