"""Exported files against the detector in PyTorch: their detections and their latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..command_line import text_table

Found = dict[str, Tensor]
Detect = Callable[[Sequence[Tensor]], list[Found]]
"""Images uint8 [3, H, W] of one size to ``boxes``, ``labels``, ``scores`` of each."""

BOX_TOLERANCE, SCORE_TOLERANCE = 1e-3, 2e-5
"""Pixels, and units of the score, within which detections are equal."""

RANDOM_BATCHES = ((1, 160, 224), (3, 100, 161), (17, 64, 64), (1, 33, 47), (2, 20, 300))
"""Images, height, width. They differ in what torch's compilers may take for constant: one image and several, levels of
one cell, and more than 16 images, for which convolutions may use other kernels."""


@dataclass
class Comparison:
    """Detections of a file beside those of the detector in PyTorch, added up over images."""

    images: int = 0
    equal_images: int = 0
    """With the same detections in the same order. Those whose scores are equal, up to rounding, may be in any order."""
    boxes: int = 0
    equal_boxes: int = 0
    box_difference: float = 0.0
    """The largest of equal detections, in pixels."""
    score_difference: float = 0.0
    milliseconds: list[float] = field(default_factory=list)
    """Of each image."""

    def add(self, expected: Found, found: Found) -> None:
        """Another image's detections."""
        matched = _matches(expected, found)
        expected_index = (matched >= 0).nonzero().flatten()
        found_index = matched[expected_index]
        same_count = len(expected["scores"]) == len(found["scores"])
        self.images += 1
        self.equal_images += int(same_count and len(expected_index) == len(matched))
        self.boxes += max(len(matched), len(found["scores"]))
        self.equal_boxes += len(expected_index)
        boxes = (expected["boxes"][expected_index] - found["boxes"][found_index]).abs().flatten().tolist()
        scores = (expected["scores"][expected_index] - found["scores"][found_index]).abs().tolist()
        self.box_difference = max(self.box_difference, *boxes, 0.0)
        self.score_difference = max(self.score_difference, *scores, 0.0)

    @property
    def all_equal(self) -> bool:
        return self.equal_images == self.images

    @property
    def median(self) -> float:
        """Milliseconds of an image."""
        return statistics.median(self.milliseconds)


def _matches(expected: Found, found: Found) -> Tensor:
    """For each expected detection the index of its equal in ``found``, -1 without: the nearest in the order. Both are
    in the order of their scores, so equal ones have different places only among scores that are equal, up to rounding.
    """
    matched = torch.full((len(expected["scores"]),), -1)
    free = set(range(len(found["scores"])))
    for i in range(len(matched)):
        by_score = (found["scores"] - expected["scores"][i]).abs() <= SCORE_TOLERANCE
        by_box = ((found["boxes"] - expected["boxes"][i]).abs() <= BOX_TOLERANCE).all(1)
        alike = by_score & by_box & (found["labels"] == expected["labels"][i])
        candidates = free.intersection(alike.nonzero().flatten().tolist())
        if candidates:
            matched[i] = min(candidates, key=lambda j: (abs(i - j), j))
            free.discard(int(matched[i]))
    return matched


def random_batches() -> list[list[Tensor]]:
    """Smooth random images, in batches of one size."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for count, height, width in RANDOM_BATCHES:
        coarse = torch.rand(count, 3, height // 8 + 2, width // 8 + 2, generator=generator)
        images = F.interpolate(coarse, size=(height, width), mode="bilinear") * 255
        batches.append(list(images.to(torch.uint8)))
    return batches


@torch.inference_mode()
def compare(reference: Detect, forms: dict[str, Detect], batches: Sequence[Sequence[Tensor]]) -> dict[str, Comparison]:
    """Every form on every batch, in turn. The first time that a size occurs is not timed.

    Returns:
        For ``"PyTorch"``, which is ``reference``, and each of ``forms``. Times are of an image of a batch.
    """
    timed = {"PyTorch": reference, **forms}
    results = {name: Comparison() for name in timed}
    seen: set[tuple[int, ...]] = set()
    for batch in batches:
        shape = (len(batch), *batch[0].shape)
        if shape not in seen:
            for detect in timed.values():
                detect(batch)
            seen.add(shape)
        expected: list[Found] = []
        for name, detect in timed.items():
            began = time.perf_counter()
            found = detect(batch)
            results[name].milliseconds += [(time.perf_counter() - began) * 1000 / len(batch)] * len(batch)
            expected = expected or found
            for one, other in zip(expected, found, strict=True):
                results[name].add(one, other)
    return results


def table(results: dict[str, Comparison], sizes: dict[str, int]) -> str:
    """The comparison as text, a line for each form; ``sizes`` are those of the files in bytes."""
    rows = [("form", "file", "equal images", "equal boxes", "box diff.", "score diff.", "ms / image")]
    for name, one in results.items():
        if name == "PyTorch":
            shares = (f"{one.images} images", f"{one.boxes} boxes", "", "")
        else:
            differences = f"{one.box_difference:.1e} px", f"{one.score_difference:.1e}"
            shares = (f"{one.equal_images} of {one.images}", f"{one.equal_boxes} of {one.boxes}", *differences)
        size = f"{sizes[name] / 1e6:.1f} MB" if name in sizes else ""
        rows.append((name, size, *shares, f"{one.median:.1f}"))
    return "\n".join(text_table(rows))
