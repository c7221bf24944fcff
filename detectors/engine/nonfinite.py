"""Losses and gradients that are not finite: found on the device, raised at the next log entry, never applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import distributed


class NonFiniteLoss(RuntimeError):
    """A loss or a gradient is NaN or infinite; the message holds iteration, losses, image ids and the batch's file.

    ``here``: True if this rank's loss, or only the gradients, are not finite; False if another rank's loss is.
    """

    def __init__(self, message: str, *, here: bool = True) -> None:
        super().__init__(message)
        self.here = here


class FiniteGuard:
    """Checks every step on the device and freezes the weights from the first bad step on.

    The host reads the result only where it waits for the device anyway: at log entries, checkpoints and the end. Until
    then :meth:`observe` makes the optimizer skip its steps, so the weights stay as they were before the bad step. All
    ranks get the same result.

    Args:
        device: the model's.
        scaled: whether a loss scale is used. Gradients then overflow from time to time; such a step is skipped, but it
            is not bad.
    """

    def __init__(self, device: torch.device, *, scaled: bool) -> None:
        self.scaled = scaled
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=device)
        """[] the iteration (0, 1, ...) of the first bad step, -1 for none."""

    def observe(self, iteration: int, loss: Tensor, norm: Tensor) -> Tensor:
        """Checks the loss and the gradient norm of a step -> [] float, 1 if the optimizer must skip it."""
        overflow = ~norm.isfinite()
        bad = ~loss.isfinite()
        bad = distributed.any_rank(bad if self.scaled else bad | overflow)
        self.first_bad.masked_fill_(bad & (self.first_bad < 0), iteration)
        return (overflow | (self.first_bad >= 0)).float()

    def first_bad_step(self) -> int:
        """:attr:`first_bad` on the host, which waits for the device."""
        return int(self.first_bad.item())


def describe(
    out: Path,
    iteration: int,
    losses: dict[str, float],
    batch: tuple[list[Tensor], list[dict[str, Any]]],
    weights: dict[str, Tensor],
) -> NonFiniteLoss:
    """Saves this rank's share of the bad batch, and on rank 0 the weights -> the error to raise.

    The file loads with ``weights_only=True``: ``images``, ``targets``, ``image_ids``, ``losses``, ``iteration`` and
    ``model``. Batch-norm statistics in ``model`` may include the bad batch.
    """
    images, targets = batch
    rank = distributed.rank()
    path = out / ("nonfinite.pt" if rank == 0 else f"nonfinite_rank{rank}.pt")
    ids = [target["image_id"] for target in targets]
    content = {"iteration": iteration, "losses": losses, "image_ids": ids, "images": images, "targets": targets}
    out.mkdir(parents=True, exist_ok=True)
    torch.save(content | ({"model": weights} if rank == 0 else {}), path)
    here = not all(torch.tensor(list(losses.values())).isfinite())
    what = "loss is" if here else "gradients are"
    return NonFiniteLoss(
        f"{what} not finite at iteration {iteration}: {losses}; images {ids} (saved in {path})", here=here
    )
