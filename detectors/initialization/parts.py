"""The parts of a detector, each of which is taken from a file as a whole or starts anew."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

PARTS = {
    "backbone": r"backbone\..+",
    "pyramid": r"fpn\.(lateral|fpn)_convs\..+",
    "extra levels": r"fpn\.extra_convs\..+",
    "class tower": r"head\.cls_tower\..+",
    "box tower": r"head\.reg_tower\..+",
    "class layer": r"head\.cls_logits\..+",
    "box layer": r"head\.bbox_regression\..+|head\.scales",
    "centerness layer": r"head\.bbox_ctrness\..+",
    "IoU layer": r"head\.iou_logits\..+",
}

COUNTER = "num_batches_tracked"
"""Of batch norms; files of other programs may lack it, and it changes nothing."""


def part_of(name: str) -> str | None:
    return next((part for part, pattern in PARTS.items() if re.fullmatch(pattern, name)), None)


def by_part(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each part that there is, without counters."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part = part_of(name)
        if part is not None and not name.endswith(COUNTER):
            found.setdefault(part, {})[name] = tensor
    return {part: found[part] for part in PARTS if part in found}


def needed_parts(part: str, *, one_tower: bool, centerness_on: str) -> tuple[str, ...]:
    """The parts whose outputs a part reads: without them its own weights mean nothing."""
    box_tower = "class tower" if one_tower else "box tower"
    centerness_tower = "class tower" if centerness_on == "cls" else box_tower
    return {
        "pyramid": ("backbone",),
        "extra levels": ("pyramid",),
        "class tower": ("pyramid",),
        "box tower": ("pyramid",),
        "class layer": ("class tower",),
        "box layer": (box_tower,),
        "centerness layer": (centerness_tower,),
        "IoU layer": (box_tower,),
    }.get(part, ())


def misfit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """Why the tensors of a part cannot be taken as they are, or None.

    Biases of convolutions that the file has in addition are no reason: without them only the outputs change a little.
    """
    for name, tensor in wanted.items():
        if name in found and found[name].shape != tensor.shape:
            return f"{_short(name)} is {shape_text(found[name])}, {shape_text(tensor)} here"
    if missing := [name for name in wanted if name not in found]:
        return f"the file has no {_short(missing[0])}"
    more = [name for name in found if name not in wanted and not name.endswith(".bias")]
    return f"the file has {_short(more[0])} too" if more else None


def surplus_biases(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> int:
    """Biases in the file that the model has no place for."""
    return sum(name.endswith(".bias") and name not in wanted for name in found)


def aligned_pyramid(tensors: Mapping[str, Tensor], num_laterals: int) -> tuple[dict[str, Tensor], int]:
    """Names of the pyramid for a model of ``num_laterals``: both end at C5, but one may begin at C2, the other at C3.

    -> (tensors, how many of the model's finest levels the file lacks).
    """
    pattern = r"fpn\.(lateral|fpn)_convs\.(\d+)\.(.+)"
    matches = {name: re.fullmatch(pattern, name) for name in tensors}
    shift = num_laterals - 1 - max((int(m[2]) for m in matches.values() if m), default=num_laterals - 1)
    aligned = {}
    for name, tensor in tensors.items():
        if match := matches[name]:
            level = int(match[2]) + shift
            if level < 0:
                continue
            name = f"fpn.{match[1]}_convs.{level}.{match[3]}"
        aligned[name] = tensor
    return aligned, max(shift, 0)


def shape_text(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


def _short(name: str) -> str:
    return name.partition(".")[2]
