"""A batch in one buffer of shared memory: one open file for each batch on its way from a worker, not one a tensor."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ALIGNMENT = 64  # bytes: a view as any dtype is possible
_SPARE = 8


@dataclass
class _Place:
    """Where a tensor lies in the buffer."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def end(self) -> int:
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    def of(self, buffer: Tensor) -> Tensor:
        return buffer[self.offset : self.end].view(self.dtype).view(self.shape)


@dataclass
class Packed:
    """Nested lists, tuples and dicts whose CPU tensors lie in one buffer."""

    content: Any
    """The structure, with places instead of tensors."""
    buffer: Any
    """uint8 [bytes], a tensor in shared memory; without shared memory an array, which goes through a pipe."""
    problem: str | None = None
    """Why there was no shared memory."""

    def pin_memory(self) -> Packed:
        """Called by the DataLoader's pinning thread."""
        return Packed(self.content, torch.as_tensor(self.buffer).pin_memory(), self.problem)

    def unpack(self) -> Any:
        """The structure again; its tensors are views of the buffer."""
        buffer = torch.as_tensor(self.buffer)
        return _replace(self.content, _Place, lambda place: place.of(buffer))


def pack(content: Any) -> Packed:
    """Copies the tensors of `content` into one buffer of shared memory.

    Where the system has none left, or no open file, the buffer stays in this process's memory, and `problem` is set.
    """
    tensors: list[tuple[_Place, Tensor]] = []
    end = 0

    def place(tensor: Tensor) -> _Place:
        nonlocal end
        tensors.append((_Place(end, tuple(tensor.shape), tensor.dtype), tensor))
        end = -(-tensors[-1][0].end // _ALIGNMENT) * _ALIGNMENT
        return tensors[-1][0]

    structure = _replace(content, Tensor, place)
    problem = None
    try:
        _require_descriptors()
        # torch reserves the memory: a full file system is an error here, not a SIGBUS at a write
        buffer = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(max(end, 1)))
    except (RuntimeError, OSError) as error:
        buffer, problem = torch.empty(end, dtype=torch.uint8), str(error)
    for where, tensor in tensors:
        where.of(buffer).copy_(tensor)
    return Packed(structure, buffer if problem is None else buffer.numpy(), problem)


def _require_descriptors() -> None:
    """OSError unless some files can still be opened: sending shared memory opens a few, in a thread whose errors lose
    the batch."""
    spare = []
    try:
        for _ in range(_SPARE):
            spare.append(os.dup(2))
    finally:
        for number in spare:
            os.close(number)


def _replace(content: Any, kind: type, change: Any) -> Any:
    if isinstance(content, kind):
        return change(content)
    if isinstance(content, dict):
        return {key: _replace(value, kind, change) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(_replace(value, kind, change) for value in content)
    return content
