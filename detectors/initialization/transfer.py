"""What of a file's detector a model can take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..config.settings import ModelConfig
from ..models.build import tower_norm
from ..models.dense_detector import DenseDetector
from .class_layer import class_layer
from .conversion import CONV, MEAN, for_input, same_input
from .own import head_of, structure
from .parts import COUNTER, aligned_pyramid, by_part, misfit, needed_parts, surplus_biases
from .source import Source

_OF_ALL_HEADS = ("backbone", "style", "fpn_channels")
"""Settings that mean the same whatever the head."""


@dataclass
class Part:
    """What happens to a part of the model."""

    name: str
    total: int
    """Tensors of the model."""
    taken: int = 0
    remark: str = ""
    """Why it is not taken, or what is new in it."""


@dataclass
class Transfer:
    """The tensors that replace the model's, and what the user should know."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    unused: dict[str, int] = field(default_factory=dict)
    """Parts of the file that the model lacks -> number of tensors."""
    other_settings: dict[str, tuple[object, object]] = field(default_factory=dict)
    """Setting of section ``model`` -> (the file's, this run's) where the structure differs."""
    notes: list[str] = field(default_factory=list)


def plan(source: Source, model: DenseDetector, config: ModelConfig, categories: Sequence[str] | None) -> Transfer:
    """The transfer from a file to a new model; nothing is changed.

    Args:
        config: of the model.
        categories: the model's classes by column; None for a detector without classes.

    Raises:
        ValueError: the backbone is another one, or in another style: nothing else would mean the same. A tensor that
            would be taken is not floating point, or has values that are not finite.
    """
    own = model.state_dict()
    result = Transfer(other_settings=_differences(source, config))
    given, absent_levels = aligned_pyramid(_for_model(source, model, config, result), len(model.fpn.lateral_convs))
    parts, found = by_part(own), by_part(given)
    for name, wanted in parts.items():
        present = found.get(name, {})
        part = Part(name, len(wanted))
        result.parts.append(part)
        needs = needed_parts(name, one_tower=model.head.reg_tower is None, centerness_on=config.centerness_on)
        reason = _other_meaning(name, source, config) or _needs(needs, result) if present else "not in the file"
        if reason is None and name == "class layer" and categories is not None:
            tensors, part.remark = class_layer(wanted, present, source.classes, categories, model.head.num_anchors)
        elif reason is None:
            tensors, part.remark = _whole_part(name, wanted, present, absent_levels)
        else:
            tensors, part.remark = {}, reason
        if name == "backbone" and not tensors:
            raise ValueError(_other_backbone(source, config, part.remark))
        part.taken = len(tensors)
        result.tensors |= tensors
    taken = {part.name for part in result.parts if part.taken}
    result.notes += [text for part, text in source.notes if part is None or part in taken]
    result.unused = {name: len(tensors) for name, tensors in found.items() if name not in parts} | dict(source.unused)
    result.tensors |= {
        key: x for key, x in given.items() if key.endswith(COUNTER) and key.startswith("backbone.") and key in own
    }
    _check_values(result.tensors, own)
    return result


def _check_values(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """ValueError for the first tensor that is not of finite floating-point numbers where the model's is."""
    for name, wanted in own.items():
        if name in tensors and wanted.is_floating_point():
            tensor = tensors[name]
            if not tensor.is_floating_point():
                raise ValueError(f"{name} is {tensor.dtype}, not floating point")
            if not tensor.to(wanted.dtype).isfinite().all():
                raise ValueError(f"{name} has values that are NaN or infinite")


def _for_model(source: Source, model: DenseDetector, config: ModelConfig, result: Transfer) -> dict[str, Tensor]:
    """The file's tensors, for the pixel values that the model's backbone gets; ValueError for the other style."""
    if "style" in result.other_settings and config.backbone.startswith("resnet"):
        theirs, ours = result.other_settings["style"]
        raise ValueError(
            f"its ResNet is in {theirs} style, model.style is {ours}: strides and pixel values differ; "
            f"--set model.style={theirs} fits"
        )
    given, wanted = source.normalization, model.backbone.normalization
    if given is None or not {CONV, MEAN} <= source.tensors.keys() or same_input(given, wanted):
        return source.tensors
    result.notes.append(
        "the backbone expects other pixel values: its first convolution is converted, exact but for the image's border"
    )
    return for_input(source.tensors, given, wanted)


def _whole_part(
    name: str, wanted: Mapping[str, Tensor], present: Mapping[str, Tensor], absent_levels: int
) -> tuple[dict[str, Tensor], str]:
    """-> (the tensors of a part, none if it does not fit; a remark)."""
    remark = ""
    if name == "pyramid" and absent_levels:
        wanted = {key: x for key, x in wanted.items() if int(key.split(".")[2]) >= absent_levels}
        remark = "the file has no P2"
    if reason := misfit(wanted, present):
        return {}, reason
    if count := surplus_biases(wanted, present):
        remark = f"without {count} biases of the file's convolutions"
    return {key: present[key] for key in wanted}, remark


def _differences(source: Source, config: ModelConfig) -> dict[str, tuple[object, object]]:
    ours = structure(config)
    names = set(source.settings if source.head == head_of(config) else _OF_ALL_HEADS) & set(source.settings)
    if config.detector == "fcos-":
        names.discard("centerness_on")
    return {
        name: (source.settings[name], ours[name])
        for name in ours
        if name in names and source.settings[name] != ours[name] and source.settings[name] is not None
    }


def _needs(needs: Sequence[str], result: Transfer) -> str | None:
    new = [part.name for part in result.parts if part.name in needs and part.taken == 0]
    return f"the {new[0]} is new" if new else None


def _other_meaning(name: str, source: Source, config: ModelConfig) -> str | None:
    """Why a part of the head means something else in the file, whatever its shape."""
    if name in ("backbone", "pyramid", "extra levels"):
        return None
    if source.head != head_of(config):
        return f"the file's head is of {source.head or 'another kind, or not complete'}"
    for part, setting in (("box layer", "norm_on_bbox"), ("centerness layer", "centerness_on")):
        value = source.settings.get(setting)
        if name == part and value not in (None, getattr(config, setting)):
            return f"model.{setting} is {setting_text(value)} in the file"
    norm = source.settings.get("tower_norm")
    if name in ("class tower", "box tower") and (norm is None) != (tower_norm(config) is None):
        return f"the file's towers have {'no norm' if norm is None else 'group norm'}"
    return None


def setting_text(value: object) -> str:
    """A value as it stands after --set."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _other_backbone(source: Source, config: ModelConfig, reason: str) -> str:
    name = source.settings.get("backbone")
    if name and name != config.backbone:
        return (
            f"its backbone is {name}, model.backbone is {config.backbone} (--set model.backbone, or another --preset)"
        )
    return f"its backbone does not fit model.backbone={config.backbone}: {reason}"
