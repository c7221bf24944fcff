"""The faults of a data set, and the warnings about them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from .read import CocoContent
from .rows import FIELDS, LOST_WITH_IMAGE

_LOG = logging.getLogger(__name__)
_TOLERATED = 0.1
"""Share of the annotations, or images, that may be left out without a warning."""
_UNUSABLE = ("malformed images", "images that share an id")
_IMAGES = ("missing images", *_UNUSABLE)
_BROKEN = "broken images"
_ANNOTATIONS = (*FIELDS, "malformed annotations", *LOST_WITH_IMAGE)


class Findings:
    """The faults found by reading and loading a data set.

    Attributes:
        num_annotations: annotations in the file, of the chosen categories.
        num_images: images in the file.
        dropped: Counter of images and annotations left out, by reason.
        noted: Counter of unusual images and annotations that are used.
        examples: {reason: the first image or annotation dropped for it}.
        relabeled: the category ids that :meth:`~mlc_ext.detectors.data.coco.dataset.CocoDetection.label_as` found to
            differ, in lines.
        broken: {file name: why} of images found unreadable so far, by this process or its workers.
        clipped: {file name: what} of images with values that were clipped so far.
        reported: the warnings that were logged.
    """

    def __init__(self, content: CocoContent):
        self.num_annotations = len(content.annotations)
        self.dropped: Counter[str] = content.dropped
        self.noted: Counter[str] = content.noted
        self.num_images = len(content.images) + sum(content.dropped[reason] for reason in _UNUSABLE)
        self.examples: dict[str, str] = {"malformed images": content.problems[0]} if content.problems else {}
        self.relabeled: list[str] = []
        self.broken: dict[str, str] = {}
        self.clipped: dict[str, str] = {}
        self.reported: set[str] = set()

    def note_broken(self, broken: Mapping[str, str]) -> None:
        """Adds {file name: why} of unreadable images to `broken`; loaders pass on those that workers found."""
        for name, why in broken.items():
            if name not in self.broken:
                self.broken[name] = why
                if torch.utils.data.get_worker_info() is None:  # the main process receives and reports it
                    _LOG.warning("image skipped: %s", why)

    def note_clipped(self, clipped: Mapping[str, str]) -> None:
        """Adds {file name: what} of images whose values were clipped to `clipped`. Only the first is a warning: often
        all images of a data set are clipped."""
        for name, what in clipped.items():
            if name not in self.clipped:
                _LOG.log(logging.INFO if self.clipped else logging.WARNING, "%s", what)
                self.clipped[name] = what
                self.noted["images with values that were clipped"] += 1

    def summary(self) -> str:
        """``"; dropped: ...; noted: ..."`` with counts by reason; without any, nothing."""
        left_out = [f"{count} {reason}" for reason, count in sorted(self.dropped.items()) if count]
        if self.broken:
            left_out.append(f"{len(self.broken)} broken images found while loading")
        odd = [f"{count} {reason}" for reason, count in sorted(self.noted.items())]
        parts = [("dropped", left_out), ("noted", odd)]
        return "".join(f"; {name}: {', '.join(reasons)}" for name, reasons in parts if reasons)

    def warnings(self, used: int) -> list[str]:
        """The warnings before a run, each in a line; ``used`` is the number of images in use.

        Broken images are searched for among those in use, the other faults in the whole file.
        """
        return [
            *self.relabeled,
            *self._many(_ANNOTATIONS, self.num_annotations, "annotations"),
            *self._many(_IMAGES, self.num_images, "images"),
            *self._many((_BROKEN,), used + self.dropped[_BROKEN], "images"),
        ]

    def _many(self, reasons: Sequence[str], total: int, what: str) -> list[str]:
        """A line if more than a tolerated share is left out for these reasons."""
        lost = sorted(((self.dropped[reason], reason) for reason in reasons if self.dropped[reason]), reverse=True)
        count = sum(number for number, _ in lost)
        if count <= _TOLERATED * total:
            return []
        reported = [f"{n} {reason}" + (f" ({self.examples[reason]})" if reason in self.examples else "")
                    for n, reason in lost]  # fmt: skip
        return [f"{count} of {total} {what} are left out: {', '.join(reported)}"]
