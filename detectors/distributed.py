"""Runs on several processes (ranks): communication between them, and a common end.

torchrun starts the processes, on one machine or several. In a single process every function here returns its argument
or does nothing, so callers need no special case. There are two kinds of communication: tensors on the device
(gradients, normalizers, the flag of a bad step), for which the host does not wait, and Python objects (metrics, states,
votes), which are sent by gloo.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mlc_ext._ranks import rank, world_size

from .config.settings import DEVICE

T = TypeVar("T")


class SetupError(ValueError):
    """The run cannot start on some rank; raised on every rank, printed by rank 0."""


class LostPeer(RuntimeError):
    """Another process of the run has ended; the message names how to resume."""


def is_main() -> bool:
    """Whether this process writes the files and prints: rank 0."""
    return rank() == 0


def pick_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is a GPU if there is one.

    With several processes on a machine, "auto" and "cuda" give each process the GPU of its local rank.

    Raises ValueError for a device that does not exist.
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
    """Within, the process group of torchrun's environment: NCCL on GPUs, gloo on CPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    target = pick_device(device)
    if target.type == "cuda":
        torch.cuda.set_device(target)
    dist.init_process_group("nccl" if target.type == "cuda" else "gloo")
    yield
    leave()  # skipped on error: the failed ranks would hang the teardown


def leave() -> None:
    """Ends the process groups."""
    global _host
    _host = None
    dist.destroy_process_group()


def end_program(status: int) -> NoReturn:
    """Ends the process with this exit code.

    One of several processes ends without the interpreter's teardown, which communication threads that are still running
    can abort. Ctrl-C is ignored from now on: the work is done, and the interpreter would end with another code.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)


_host: tuple[Any, Any] | None = None


def _host_group() -> Any:
    """A gloo group in addition to the default one; the first call makes it and is collective over all ranks."""
    global _host
    if _host is None or _host[0] is not dist.group.WORLD:
        _host = (dist.group.WORLD, dist.new_group(backend="gloo"))
    return _host[1]


def broadcast(value: T) -> T:
    """The picklable ``value`` of rank 0, on every rank."""
    if world_size() == 1:
        return value
    box = [value if is_main() else None]
    dist.broadcast_object_list(box, src=0, group=_host_group())
    return box[0]


def gather(value: T) -> list[T]:
    """The picklable values of all ranks, by rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_host_group())
    return values


@contextlib.contextmanager
def together() -> Iterator[None]:
    """For a part of the set-up without communication: after it all ranks continue, or all raise.

    If a rank fails, the others raise :class:`SetupError` with its message instead of waiting for it forever.
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
        raise failure  # a bug: with its own traceback
    for number, message in enumerate(messages):
        if message is not None:
            raise SetupError(message if number == 0 else f"rank {number}: {message}") from failure


def parallel(model: nn.Module) -> nn.Module:
    """``model`` with a backward pass that averages gradients over the ranks: DistributedDataParallel, or itself.

    ``device_ids`` is not given: the trainer moves the images, and targets are checked on the CPU before they are moved.
    Each rank normalizes with its own batch statistics; the running statistics of rank 0 are saved.
    """
    return model if world_size() == 1 else DistributedDataParallel(model, gradient_as_bucket_view=True)


def share_buffers(model: nn.Module) -> None:
    """Copies the buffers of rank 0 to every rank: batch-norm statistics differ after a step."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def without_exchange(model: nn.Module) -> contextlib.AbstractContextManager:
    """Within, backward passes of the model of :func:`parallel` accumulate gradients without averaging over ranks."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else contextlib.nullcontext()


def any_rank(flag: Tensor) -> Tensor:
    """[] bool on the device: True if ``flag`` is True on any rank; the host does not wait."""
    if world_size() == 1:
        return flag
    votes = flag.int()
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return votes.bool()


class Vote:
    """Whether any rank wants to stop; all ranks get the answer at the same step.

    To be called at each step. It returns the result of the votes of the previous step, which have arrived in the
    meantime, so the host does not wait. With ``last=True`` it waits for the votes of this step: after the last step of
    an epoch there may be no next one.
    """

    def __init__(self) -> None:
        self._pending: tuple[Any, Tensor] | None = None

    def __call__(self, stop: bool, *, last: bool = False) -> bool:
        if world_size() == 1:
            return stop
        answer = self._collect()
        votes = torch.tensor([int(stop)])
        self._pending = (dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=_host_group(), async_op=True), votes)
        if last or answer:  # complete the exchange in progress before stopping
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
    """Whether the error is a communication that failed because another process has ended."""
    if world_size() == 1 or not isinstance(error, RuntimeError):
        return False
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and any(mark in str(error) for mark in ("gloo", "NCCL"))
