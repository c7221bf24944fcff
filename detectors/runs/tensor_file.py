"""Tensors in a file, by torch.save."""

from __future__ import annotations

from typing import Any, BinaryIO

import torch


def save_tensors(value: Any, file: BinaryIO) -> None:
    """torch.save. Its writer hides an OSError of the file, or Ctrl-C, behind a RuntimeError: here they are raised."""
    try:
        torch.save(value, file)
    except RuntimeError as error:
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, (OSError, KeyboardInterrupt)):
            reason = reason.__context__
        if reason is None:
            raise
        raise reason from error
