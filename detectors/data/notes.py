"""What was met in a data set: left out, odd, broken."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

import torch

from .annotations import CocoContent
from .messages import report_line

_LOG = logging.getLogger(__name__)


class Notes:
    """What reading and loading a data set have met; the attributes are documented in CocoDetection."""

    def __init__(self, content: CocoContent):
        self.dropped: Counter[str] = content.dropped
        self.noted: Counter[str] = content.noted
        self.num_annotations = len(content.annotations)
        self.examples: dict[str, str] = {"malformed images": content.problems[0]} if content.problems else {}
        self.relabeled: list[str] = []
        self.reported: set[str] = set()  # the warnings that were
        self.broken: dict[str, str] = {}
        self.clipped: dict[str, str] = {}

    def note_broken(self, broken: Mapping[str, str]) -> None:
        """Takes {file name: why} of images found unreadable, by a worker process say, into `broken`."""
        for name, why in broken.items():
            if name not in self.broken:
                self.broken[name] = why
                if torch.utils.data.get_worker_info() is None:  # the main process receives and reports it
                    _LOG.warning("image skipped: %s", why)

    def note_clipped(self, clipped: Mapping[str, str]) -> None:
        """Takes {file name: what} of images whose values were clipped; the first is reported."""
        for name, what in clipped.items():
            if name not in self.clipped:
                (_LOG.warning if self.clipped else report_line)(what)
                self.clipped[name] = what
                self.noted["images with values that were clipped"] += 1
