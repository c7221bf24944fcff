"""Settings by name: changes from text, JSON and YAML, and the differences of two configurations."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import logging
import math
import reprlib
import types
import typing
from collections.abc import Sequence
from pathlib import Path

from .settings import Config

RENAMED = {"model.v1": "model.mmdet1"}
"""Former names of settings -> present names. Configuration files, checkpoints and --set may use both."""


@functools.cache
def report_renamed(kind: str, old: str, new: str) -> None:
    """Logs the use of a former name, once per process."""
    logging.getLogger("mlc_ext.detectors").warning("%s %s is called %s now", kind, old, new)


def differences(before: Config, after: Config) -> dict[str, tuple[object, object]]:
    """``section.key`` -> (before, after) of the settings that differ."""
    found = {}
    for section in dataclasses.fields(before):
        old, new = getattr(before, section.name), getattr(after, section.name)
        for setting in dataclasses.fields(old):
            values = getattr(old, setting.name), getattr(new, setting.name)
            if values[0] != values[1]:
                found[f"{section.name}.{setting.name}"] = values
    return found


def from_dict(values: dict) -> Config:
    """The configuration of :meth:`Config.to_dict`; see :func:`update`."""
    return update(Config(), values)


def update(config: Config, values: dict) -> Config:
    """``config`` with the settings of ``{section: {key: value}}``.

    Raises:
        ValueError: an unknown section or key (the nearest is named), or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"a configuration must be sections of settings, got {_shown(values)}")
    for section, entries in values.items():
        known = _settings(config)
        if entries is None and section in {name.partition(".")[0] for name in known}:
            continue  # all lines of the section are commented out
        if not isinstance(entries, dict):
            sections = ", ".join(field.name for field in dataclasses.fields(config))
            near = _nearest(str(section), known)
            raise ValueError(f"{_shown(section)} is not a section of settings ({sections})" + near)
        for key, value in entries.items():
            config = override(config, f"{section}.{key}", value)
    return config


def _settings(config: Config) -> list[str]:
    return [
        f"{section.name}.{setting.name}"
        for section in dataclasses.fields(config)
        for setting in dataclasses.fields(getattr(config, section.name))
    ]


def _nearest(name: str, known: list[str]) -> str:
    """A hint to the most similar name, also by its last part alone: ``epochs`` means ``schedule.epochs``."""
    section, _, key = name.rpartition(".")
    ends = {full.rpartition(".")[2]: full for full in reversed(known)}
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    near = near or [ends[end] for end in difflib.get_close_matches(key, ends, n=1, cutoff=0.7)]
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else ""


def override(config: Config, name: str, value: object) -> Config:
    """`config` with ``section.key`` set to ``value``; text is parsed by the field's type.

    Raises:
        ValueError: the name is unknown (the nearest is named) or the value does not fit the type.
    """
    name = present_name(config, name)
    section, _, key = name.partition(".")
    part = getattr(config, section)
    kind = typing.get_type_hints(type(part))[key]
    return dataclasses.replace(config, **{section: dataclasses.replace(part, **{key: _parse(name, value, kind)})})


def assign(config: Config, assignments: Sequence[str]) -> Config:
    """:func:`override` by texts ``section.key=value``, in their order."""
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise ValueError(f"--set must be KEY=VALUE, got {assignment!r}")
        config = override(config, name, value)
    return config


def present_name(config: Config, name: str) -> str:
    """The present name of a setting ``section.key``. ValueError if there is none; the nearest is named."""
    present = RENAMED.get(name, name)
    known = _settings(config)
    if present not in known:
        raise ValueError(f"unknown setting {name!r}" + _nearest(name, known))
    if present != name:
        report_renamed("setting", name, present)
    return present


def _parse(name: str, value: object, kind: object) -> object:
    """`value`, a text or a type of JSON or YAML, as the annotated type `kind`."""
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    options = typing.get_args(kind) if is_union else (kind,)
    if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
        if type(None) in options:
            return None
        raise ValueError(f"{name} must not be None")
    for option in options:
        if option is type(None):
            continue
        try:
            return _as(value, option)
        except (ValueError, TypeError, OverflowError):
            continue
    wanted = " or ".join(map(_called, options))
    raise ValueError(f"{name} must be {wanted}, got {_shown(value)}")


_WORDS = {"true": True, "1": True, "false": False, "0": False}


def _as(value: object, kind: type) -> object:
    """`value` as a `kind`; TypeError or ValueError if that is not possible."""
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (str, list, tuple)):
            raise TypeError
        parts = value.strip("()[]").split(",") if isinstance(value, str) else value
        return tuple(_as(part, typing.get_args(kind)[0]) for part in parts)
    if kind is bool:
        if isinstance(value, bool) or value in (0, 1):
            return bool(value)
        if not isinstance(value, str) or value.strip().lower() not in _WORDS:
            raise TypeError
        return _WORDS[value.strip().lower()]
    if kind is str:
        if not isinstance(value, (str, Path)):  # a number may have lost zeros: a folder called 007 must be quoted
            raise TypeError
        return str(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError
    if kind is int and isinstance(value, float) and value != int(value):
        raise ValueError
    number = kind(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _called(kind: object) -> str:
    if typing.get_origin(kind) is tuple:
        return f"several {typing.get_args(kind)[0].__name__}"
    return {type(None): "None", bool: "bool (true or false)", str: "text"}.get(kind) or kind.__name__


def _shown(value: object) -> str:
    """`value` for a message: short, on one line."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)
