"""Several processes, one run: what ranks share, agree on, and how they end together.

torchrun starts the processes and their rendezvous, on one machine or many. Every function here does the obvious thing
in a single process, so no caller asks. Two kinds of exchange are kept apart: tensors on the device (gradients,
normalizers, the flag of a bad step), which the host does not wait for, and host objects (metrics, states, votes), which
travel over gloo.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .config.settings import DEVICE

T = TypeVar("T")


class SetupError(ValueError):
    """What kept a run from starting on some rank; raised on every rank, to be told by the first."""


class LostPeer(RuntimeError):
    """Another process of the run is gone; the message says what can be resumed."""


def rank() -> int:
    """This process's number, 0 alone."""
    return dist.get_rank() if _grouped() else 0


def world_size() -> int:
    """Processes of the run, 1 alone."""
    return dist.get_world_size() if _grouped() else 1


def is_main() -> bool:
    """Whether this process writes files and talks."""
    return rank() == 0


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def pick_device(name: str) -> torch.device:
    """`name`, or for "auto" the GPU if there is one; with several processes on a machine each takes the GPU of its
    local number for "auto" and "cuda".

    ValueError for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not DEVICE.fullmatch(name):
        raise ValueError(f"device must be cpu, cuda, cuda:N or auto, got {name!r}")
    device = torch.device(name)
    if device.type != "cuda":
        return device
    local, local_world = (int(os.environ.get(key, default)) for key, default in _LOCAL)
    if device.index is not None and local_world > 1:
        raise ValueError(f"device {name!r} would be shared by {local_world} processes; use cuda")
    index = device.index if device.index is not None else local
    if index >= torch.cuda.device_count():
        raise ValueError(f"device 'cuda:{index}': torch sees {torch.cuda.device_count()} GPUs")
    return torch.device("cuda", index)


_LOCAL = (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))


@contextlib.contextmanager
def session(device: str) -> Iterator[None]:
    """The process group of torchrun's environment, NCCL on GPUs and gloo on CPUs, while a program runs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    target = pick_device(device)
    if target.type == "cuda":
        torch.cuda.set_device(target)
    dist.init_process_group("nccl" if target.type == "cuda" else "gloo")
    yield
    leave()  # not after an error: who failed does not answer


def leave() -> None:
    """Ends the process groups."""
    global _host
    _host = None
    dist.destroy_process_group()


def end_program(status: int) -> NoReturn:
    """Ends the process with this exit code; one of several without the interpreter's teardown, in which threads of the
    exchanges that are still on their way out can abort it."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)


_host: tuple[Any, Any] | None = None


def _host_group() -> Any:
    """A gloo group beside the default one, made by the first call, which all ranks must take part in."""
    global _host
    if _host is None or _host[0] is not dist.group.WORLD:
        _host = (dist.group.WORLD, dist.new_group(backend="gloo"))
    return _host[1]


def broadcast(value: T) -> T:
    """Rank 0's picklable ``value`` on every rank."""
    if world_size() == 1:
        return value
    box = [value if is_main() else None]
    dist.broadcast_object_list(box, src=0, group=_host_group())
    return box[0]


def gather(value: T) -> list[T]:
    """Every rank's picklable ``value``, by rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_host_group())
    return values


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A piece of set-up, without exchanges inside, after which all ranks go on or all raise.

    A rank that fails would leave the others waiting for it; here they raise :class:`SetupError` with its message.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        if world_size() == 1:
            raise
        failure = error
    messages = gather(None if failure is None else str(failure))
    if failure is not None and not isinstance(failure, (ValueError, OSError, ImportError)):
        raise failure  # a bug keeps its traceback
    for number, message in enumerate(messages):
        if message is not None:
            raise SetupError(message if number == 0 else f"rank {number}: {message}") from failure


def parallel(model: nn.Module) -> nn.Module:
    """The model whose backward pass averages gradients over the ranks: itself, or DistributedDataParallel around it.

    Without ``device_ids``: images are moved by the trainer, and targets are checked on the CPU before they move.
    Trained batch norms normalize with each rank's own statistics; rank 0's are kept.
    """
    return model if world_size() == 1 else DistributedDataParallel(model, gradient_as_bucket_view=True)


def share_buffers(model: nn.Module) -> None:
    """Gives every rank rank 0's buffers: batch-norm statistics differ between ranks after a step."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def without_exchange(model: nn.Module) -> contextlib.AbstractContextManager:
    """Within, the backward passes of :func:`parallel`'s model gather gradients on this rank alone."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else contextlib.nullcontext()


def any_rank(flag: Tensor) -> Tensor:
    """[] bool on the device: whether it is set on any rank; the host does not wait."""
    if world_size() == 1:
        return flag
    votes = flag.int()
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return votes.bool()


def mean(values: Tensor) -> Tensor:
    """The mean over ranks of a tensor on the device; the host does not wait."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= world_size()
    return values


class Vote:
    """Whether any rank wants to stop, in a way that all ranks hear it at the same step.

    Asked at each step. The answer is that of the step before, whose votes have come in meanwhile: the host waits for
    nobody. ``last=True`` waits for the present one: after the last step of an epoch there may be no next.
    """

    def __init__(self) -> None:
        self._pending: tuple[Any, Tensor] | None = None

    def __call__(self, stop: bool, *, last: bool = False) -> bool:
        if world_size() == 1:
            return stop
        answer = self._collect()
        votes = torch.tensor([int(stop)])
        self._pending = (dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=_host_group(), async_op=True), votes)
        if last or answer:  # nobody leaves while the other ranks' votes are under way
            answer = self._collect() or answer
        return answer

    def _collect(self) -> bool:
        if self._pending is None:
            return False
        work, votes = self._pending
        self._pending = None
        work.wait()
        return bool(votes.item())


def is_lost_peer(error: BaseException) -> bool:
    """Whether an exchange failed because another process does not answer any more."""
    if world_size() == 1 or not isinstance(error, RuntimeError):
        return False
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and any(mark in str(error) for mark in ("gloo", "NCCL"))
