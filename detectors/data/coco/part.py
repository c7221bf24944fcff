"""A part of a data set that has no validation split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """The images held out for validation, or the others.

    An image is held out if a hash of the seed and its file name in the JSON, as a number in [0, 1), is below the
    fraction. The choice is the same on every machine. Adding images moves no other image to the other part, even if the
    export gives all images new ids.
    """

    fraction: float
    """Share of the images that is held out, on average, in (0, 1)."""
    seed: int
    held_out: bool
    """True: the images held out; False: the others."""

    def __contains__(self, file_name: str) -> bool:
        digest = hashlib.sha256(f"{self.seed}:{file_name}".encode()).digest()
        return (int.from_bytes(digest[:8], "big") < self.fraction * 2**64) == self.held_out

    def __str__(self) -> str:
        which = "held out by" if self.held_out else "without those held out by"
        return f"{which} data.val_fraction={self.fraction:g}, data.val_seed={self.seed}"
