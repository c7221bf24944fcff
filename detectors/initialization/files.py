"""Weight files of any project, read without running code from them."""

from __future__ import annotations

import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..runs.checkpoint import FORMAT

CONTAINERS = ("state_dict", "model")
"""Keys under which training programs save the tensors: MMDetection, torchvision's references."""

_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+|(?<=\.)_orig_mod\.")
"""What DistributedDataParallel and torch.compile put before the names of the module that they wrap."""

_OWN = FORMAT.rstrip("0123456789 ")
"""The format mark of this project's checkpoints, of any version."""


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a file by name, and what else describes the detector."""

    path: Path
    tensors: dict[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)
    """MMDetection's ``meta``: configuration, class names."""
    own: bool = False
    """Whether it is a checkpoint of this project."""


class Placeholder:
    """Replaces every class and function that a file names and that torch.load does not allow by itself.

    MMDetection's checkpoints name NumPy's arrays, mmengine's HistoryBuffer and ``getattr``. torch.load gets this class
    for each of these names: it takes any arguments and does nothing, so nothing is imported or called.
    """

    def __new__(cls, *_: object, **__: object) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def read_weights(path: Path) -> WeightFile:
    """The tensors of a file that torch.save has written, on the CPU; sparse ones and those without data are left out.

    Raises:
        FileNotFoundError: no such file. ValueError: not such a file, or one without tensors by name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} to start from")
    content = _load(path)
    tensors = content
    for key in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            tensors = content[key]
            break
    if not isinstance(tensors, Mapping):
        held = "an object of another program" if isinstance(tensors, Placeholder) else f"a {type(tensors).__name__}"
        raise ValueError(f"{path} holds no tensors by name, but {held}: save the state_dict() of the detector")
    tensors = {_WRAPPERS.sub("", name): x for name, x in tensors.items() if isinstance(name, str) and _has_values(x)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:6]))
        raise ValueError(f"{path} holds no tensors by name, but {keys or 'nothing'}: save the detector's state_dict()")
    meta, mark = content.get("meta"), content.get("format")
    own = isinstance(mark, str) and mark.startswith(_OWN)
    return WeightFile(path, tensors, meta if isinstance(meta, Mapping) else {}, own)


def _has_values(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def _load(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([(Placeholder, name) for name in foreign_names(path)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # damaged files raise many types; torch's message advises unsafe loading
        reason = " ".join(str(error).split())
        marks = ("is blocked", "Can only", "nsupported", "unrecognized")
        if any(mark in reason for mark in marks):
            raise ValueError(f"{path} needs code of another program to be read, which is not run") from error
        raise ValueError(f"{path} is no file of torch.save, or it is truncated") from error


def foreign_names(path: Path) -> list[str]:
    """What a file refers to and torch.load does not allow, as "module.name"."""
    if zipfile.is_zipfile(path):
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    found = set()
    with open(path, "rb") as file:  # before torch 1.6: magic number, version, system and content, a pickle each
        for _ in range(4):
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "GLOBAL":
                    module, name = argument.split(" ", 1)
                    named = IMPORT_MAPPING.get(module, module), name  # of Python 2, in which the protocol writes names
                    found.add(".".join(NAME_MAPPING.get((module, name), named)))
    return sorted(found)
