"""A detector's weights under this project's names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..models.backbones.base import Normalization
from ..models.backbones.resnet import RESNETS

NUM_STAGES = 4


@dataclass(frozen=True)
class Source:
    """What a name map makes of a file."""

    kind: str
    """For the user: "torchvision's FCOS"."""
    head: str | None
    """"fcos", "retinanet", "rpn", or None if the file's head is of another kind."""
    tensors: dict[str, Tensor]
    """Under the names of the state_dict of a :class:`DenseDetector` of the same structure. The class layer has no
    background column."""
    unused: Mapping[str, int] = field(default_factory=dict)
    """Other parts of the file -> number of their tensors."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Settings of section ``model`` that the file's detector has, as far as they are known."""
    classes: tuple[str | None, ...] | None = None
    """Names of the columns of the class layer; None if they are not known, and for a column that is no class."""
    normalization: Normalization | None = None
    """What the backbone expects; None if it is not known."""
    notes: tuple[tuple[str | None, str], ...] = ()
    """What the user should know: the part that must be taken for it to matter, or None; and the text."""


def renamed(tensors: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> tuple[dict[str, Tensor], list[str]]:
    """-> (the tensors under this project's names, the names that no rule matches).

    Args:
        rules: (regular expression of a project's module, template of this project's as for :meth:`re.Match.expand`).
            The first that matches a whole name is used. The names of parameters, such as ``weight``, are the same.
    """
    mapped, unknown = {}, []
    for name, tensor in tensors.items():
        module, _, parameter = name.rpartition(".")
        for pattern, template in rules:
            if match := re.fullmatch(pattern, module):
                mapped[f"{match.expand(template)}.{parameter}"] = tensor
                break
        else:
            unknown.append(name)
    return mapped, unknown


def counted(names: Iterable[str]) -> dict[str, int]:
    """How many names begin with the same part, or within backbone and head with the same two parts."""
    begin = (name.split(".")[: 2 if name.startswith(("backbone.", "head.")) else 1] for name in names)
    return dict(Counter(map(".".join, begin)))


def place_in_towers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tower names with the number of the convolution, ``head.cls_tower.2.norm.weight``, to names with the place in the
    tower, which has a norm after each convolution or none."""
    pattern = r"(head\.(?:cls|reg)_tower)\.(\d+)\.(conv|norm)\.(\w+)"
    found = {name: re.fullmatch(pattern, name) for name in tensors}
    step = 3 if any(match and match[3] == "norm" for match in found.values()) else 2
    placed = {}
    for name, tensor in tensors.items():
        if match := found[name]:
            name = f"{match[1]}.{int(match[2]) * step + (match[3] == 'norm')}.{match[4]}"
        placed[name] = tensor
    return placed


def backbone_name(tensors: Mapping[str, Tensor]) -> str | None:
    """The ResNet that these weights are of, or None."""
    depths = tuple(
        1 + max((int(m[1]) for name in tensors if (m := re.match(rf"backbone\.layer{i}\.(\d+)\.", name))), default=-1)
        for i in range(1, NUM_STAGES + 1)
    )
    bottleneck = "backbone.layer1.0.conv3.weight" in tensors
    return next((name for name, known in RESNETS.items() if known == (depths, bottleneck)), None)


def known_head(head: str | None, tensors: Mapping[str, Tensor]) -> str | None:
    """``head``, or None if the class and the box layer are not complete or do not fit each other."""
    anchors = num_anchors(tensors)
    return head if anchors == 1 or (anchors is not None and head != "fcos") else None


def num_anchors(tensors: Mapping[str, Tensor]) -> int | None:
    """The anchors per location, A, by the rows of the class layer, A * C, and of the box layer, A * 4; None if the
    layers are not complete or the rows are others."""
    rows = []
    for layer in ("head.cls_logits", "head.bbox_regression"):
        weight, bias = tensors.get(f"{layer}.weight"), tensors.get(f"{layer}.bias")
        if weight is None or bias is None or weight.dim() != 4 or bias.shape != weight.shape[:1]:
            return None
        rows.append(len(bias))
    anchors, rest = divmod(rows[1], 4)
    return anchors if anchors and not rest and rows[0] and rows[0] % anchors == 0 else None


def extra_levels_from(tensors: Mapping[str, Tensor]) -> str | None:
    """What P6 is computed from by the shape of its convolution: "p5" if its input is as wide as its output, as
    torchvision's LastLevelP6P7 decides, else "c5"; None without such a convolution."""
    weight = tensors.get("fpn.extra_convs.0.weight")
    if weight is None or weight.dim() != 4:
        return None
    return "p5" if weight.shape[1] == weight.shape[0] else "c5"


def tower_settings(tensors: Mapping[str, Tensor], head: str | None) -> dict[str, object]:
    """The settings of the towers and the pyramid, by names and shapes."""
    settings: dict[str, object] = {}
    output = tensors.get("fpn.fpn_convs.0.weight")
    if output is not None and output.dim() == 4:
        settings["fpn_channels"] = output.shape[0]
    if head in ("fcos", "retinanet"):
        convolutions = [name for name, x in tensors.items() if name.startswith("head.cls_tower.") and x.dim() == 4]
        settings["num_convs"] = len(convolutions)
        norms = any(name.startswith("head.cls_tower.1.") for name in tensors)
        biased = "head.cls_tower.0.bias" in tensors
        settings["tower_norm"] = ("gn_bias" if biased else "gn") if norms else None
    return settings
