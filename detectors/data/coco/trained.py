"""Classes of a data set compared with those of a checkpoint, unless its detector is class-agnostic."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...config.overrides import from_dict
from .dataset import CocoDetection


def trained_categories(state: Mapping[str, Any]) -> dict[int, str] | None:
    """{id: name} of the classes of a checkpoint, in the order of its labels; None for checkpoints without category
    ids."""
    names, ids = state.get("categories") or [], state.get("category_ids") or []
    return dict(zip(ids, names, strict=True)) if len(names) == len(ids) == state["num_classes"] else None


def label_as_trained(dataset: CocoDetection, state: Mapping[str, Any], checkpoint: Path) -> None:
    """Gives the classes of ``dataset`` the labels that they have in a checkpoint's ``state``, matched by name.

    Raises:
        ValueError: the classes of the data are not those of the checkpoint.
    """
    if _is_class_agnostic(state):
        return
    trained = trained_categories(state)
    if trained is not None:
        dataset.label_as(trained, f"{checkpoint}'s training data")
    elif dataset.num_classes != state["num_classes"]:
        raise ValueError(
            f"{dataset.annotation_file} has {dataset.num_classes} categories, {checkpoint} was trained on "
            f"{state['num_classes']}"
        )


def require_trained(dataset: CocoDetection, state: Mapping[str, Any], checkpoint: Path) -> None:
    """ValueError unless the labels of ``dataset`` mean exactly what they mean in a checkpoint: a resumed run must have
    the same data."""
    if _is_class_agnostic(state):
        return
    trained, own = trained_categories(state), dataset.classes.categories
    if trained is None and dataset.num_classes != state["num_classes"]:
        raise ValueError(
            f"{checkpoint} was trained on {state['num_classes']} classes, the data have {dataset.num_classes}"
        )
    if trained is None or list(trained.items()) == list(own.items()):
        return
    pairs = itertools.zip_longest(trained.items(), own.items())
    label, (then, now) = next((k, pair) for k, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    reported = [f"{each[1]!r} (id {each[0]})" if each else "none" for each in (then, now)]
    raise ValueError(
        f"{checkpoint} was trained on other categories than {dataset.annotation_file} has: class {label} was "
        f"{reported[0]}, is {reported[1]}"
    )


def _is_class_agnostic(state: Mapping[str, Any]) -> bool:
    return from_dict(state["config"]).model.class_agnostic
