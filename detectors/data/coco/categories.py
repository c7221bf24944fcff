"""Classes of a data set: read from a JSON, and compared by name with those of another set."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .values import as_id, as_name

_SHOWN = 3  # categories named in an error


def read_categories(entries: list[Any], path: Path, noted: Counter[str]) -> dict[int, str]:
    """{id: name} of a JSON's ``categories``, in the order of ids; a category without a name is called by its id.

    Raises:
        ValueError: an id is missing, is not an integer, or has two names.
    """
    names: dict[int, str] = {}
    for k, entry in enumerate(entries):
        if not isinstance(entry, dict) or "id" not in entry:
            raise ValueError(f"{path}: categories[{k}] has no id")
        key, name = as_id(entry["id"]), as_name(entry.get("name"))
        if key is None:
            raise ValueError(f"{path}: categories[{k}] has id {entry['id']!r}, which is not an integer")
        if name is None:
            noted["categories without a name, called by their id"] += 1
        elif not isinstance(entry["name"], str):
            noted["categories whose name is not text"] += 1
        name = str(key) if name is None else name
        if names.setdefault(key, name) != name:
            raise ValueError(f"{path}: categories has id {key} more than once: {names[key]!r} and {name!r}")
    if shared := len(names) - len(set(names.values())):
        noted["categories with the name of another"] = shared
    return dict(sorted(names.items()))


def match_categories(
    reference: Mapping[int, str], found: Mapping[int, str], sources: tuple[str, str] = ("reference", "found")
) -> list[int]:
    """The ids of ``found`` whose names are those of ``reference``, in the order of ``reference``.

    Ids may differ, as exporters number classes by their first appearance. Names are equal in any case and Unicode form
    where that is unique. Where names are not unique, or one side has none (every class is called by its id), both ids
    and order must agree.

    Args:
        sources: the names of ``reference`` and ``found`` in errors.

    Raises:
        ValueError: other classes; names the first that differ.
    """
    for form in (str, _folded):
        theirs = [form(name) for name in reference.values()]
        own = {form(name): key for key, name in found.items()}
        if len(own) == len(found) and len(theirs) == len(set(theirs)) and own.keys() == set(theirs):
            return [own[name] for name in theirs]
    nameless = any(all(name == str(key) for key, name in each.items()) for each in (reference, found))
    if list(reference) == list(found) and (nameless or dict(reference) == dict(found)):
        return list(found)
    raise ValueError(_difference(reference, found, sources))


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def _difference(reference: Mapping[int, str], found: Mapping[int, str], sources: tuple[str, str]) -> str:
    parts = [
        f"{what} {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for what, names in (
            (f"only in {sources[1]}:", _without(found, reference)),
            (f"only in {sources[0]}:", _without(reference, found)),
        )
        if names
    ]
    return "; ".join(parts) or "the same names, some of them more than once, under other ids"


def _without(names: Mapping[int, str], others: Mapping[int, str]) -> list[str]:
    absent = set(map(_folded, others.values()))
    return [f"{name!r} (id {key})" for key, name in names.items() if _folded(name) not in absent]


class Classes:
    """The classes of a data set, with labels from 1.

    Attributes:
        categories: names by COCO category id, in the order of labels.
        names: names by class; `names[l - 1]` is label l's.
        label_to_category, category_to_label: label <-> COCO category id.
    """

    def __init__(self, categories: Mapping[int, str]):
        self.categories = dict(categories)
        self.names = list(categories.values())
        self.label_to_category = dict(enumerate(categories, start=1))
        self.category_to_label = {category: label for label, category in self.label_to_category.items()}

    def __len__(self) -> int:
        return len(self.names)

    def in_order_of(
        self, reference: Mapping[int, str], sources: tuple[str, str]
    ) -> tuple[Classes, np.ndarray, list[str]]:
        """-> (the same classes in the order of ``reference``, [1 + C] new labels by old ones, lines on differing ids).

        Args:
            sources: the names of ``reference`` and of these classes in errors.

        Raises:
            ValueError: other classes, see :func:`match_categories`.
        """
        order = match_categories(reference, self.categories, sources)
        labels = np.zeros(1 + len(order), dtype=np.int64)
        labels[[self.category_to_label[category] for category in order]] = np.arange(1, 1 + len(order))
        moved = [
            f"{self.categories[own]!r} has id {own} instead of {theirs}"
            for own, theirs in zip(order, reference, strict=True)
            if own != theirs
        ]
        return Classes({category: self.categories[category] for category in order}), labels, moved
