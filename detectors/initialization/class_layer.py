"""The class layer: its rows are the classes, which are taken by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor


class ClassLayer(NamedTuple):
    """The layer of the model with the rows that the file has for its classes; no tensors if there are none."""

    tensors: dict[str, Tensor]
    remark: str


def class_layer(
    wanted: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    theirs: Sequence[str | None] | None,
    ours: Sequence[str] | None,
    num_anchors: int,
) -> ClassLayer:
    """
    Args:
        wanted, found: weight and bias of the model and of the file, ``[A * C, ...]``, anchor by anchor.
        theirs, ours: names of the columns; None if they are not known.
        num_anchors: A, of the model.
    """
    name = next(key for key in wanted if key.endswith(".weight"))
    (rows, *rest), (own_rows, *own_rest) = found[name].shape, wanted[name].shape
    if rest != own_rest or rows % num_anchors or wanted.keys() != found.keys():
        return ClassLayer({}, f"weight is {tuple(found[name].shape)}, {tuple(wanted[name].shape)} here")
    columns, own_columns = rows // num_anchors, own_rows // num_anchors
    if theirs is None or ours is None or len(theirs) != columns:
        if columns != own_columns:
            return ClassLayer({}, f"{columns} classes without names in the file, {own_columns} here")
        return ClassLayer(dict(found), f"all {columns} rows in their order: the file does not name its classes")
    known: dict[str, int] = {}
    for column, each in enumerate(theirs):
        if each is not None:
            known.setdefault(_plain(each), column)
    pairs = [(known[_plain(each)], column) for column, each in enumerate(ours) if _plain(each) in known]
    in_file = sum(each is not None for each in theirs)
    if not pairs:
        return ClassLayer({}, f"none of the {own_columns} classes is among the {in_file} of the file")
    sources, targets = map(list, zip(*pairs, strict=True))
    tensors = {}
    for key, tensor in wanted.items():
        layer = tensor.detach().clone().cpu().unflatten(0, (num_anchors, own_columns))
        layer[:, targets] = found[key].unflatten(0, (num_anchors, columns))[:, sources].to(layer.dtype)
        tensors[key] = layer.flatten(0, 1)
    new = [each for column, each in enumerate(ours) if column not in targets]
    remark = f"{len(pairs)} of {own_columns} classes by name, of {in_file} in the file"
    return ClassLayer(tensors, remark + (f"; new: {_some(new)}" if new else ""))


def _plain(name: str) -> str:
    """Names are compared without regard to case and to what separates words."""
    return " ".join(re.split(r"[\s_-]+", name.strip().casefold()))


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
