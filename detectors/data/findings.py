"""What is reported of a data set: the summary, and warnings of what is likely wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .annotations import FIELDS, LOST_WITH_IMAGE
from .messages import report_line

if TYPE_CHECKING:
    from .coco import CocoDetection

_TOLERATED = 0.1
"""Share of a file's annotations, or images, that may be left out without a warning."""
_IMAGES = ("missing images", "broken images", "malformed images", "images that share an id")


def summary(dataset: CocoDetection) -> str:
    """One paragraph: what is in the set, and what was dropped and why."""
    crowd = dataset.num_boxes - dataset.num_objects
    text = (
        f"{dataset.annotation_file}: {len(dataset)} images, {dataset.num_boxes} boxes ({crowd} crowd), "
        f"{dataset.num_classes} categories"
    )
    left_out = [f"{count} {reason}" for reason, count in sorted(dataset.dropped.items()) if count]
    if dataset.broken:
        left_out.append(f"{len(dataset.broken)} broken images met while loading")
    text += "; dropped: " + ", ".join(left_out) if left_out else ""
    odd = [f"{count} {reason}" for reason, count in sorted(dataset.noted.items())]
    return text + ("; noted: " + ", ".join(odd) if odd else "")


def warnings(dataset: CocoDetection) -> list[str]:
    """What the user must see before a run, each in a line."""
    annotations, images = dataset.num_annotations, len(dataset)
    found = list(dataset.relabeled)
    found += _many(dataset, (*FIELDS, "malformed annotations", *LOST_WITH_IMAGE), annotations, "annotations")
    found += _many(dataset, _IMAGES, images + sum(dataset.dropped[reason] for reason in _IMAGES), "images")
    if not dataset.num_objects:
        found.append("no object is left to learn or to evaluate on")
    if form := dataset.box_form():
        found.append(form)
    return [f"{dataset.annotation_file}: {line}" for line in found]


def _many(dataset: CocoDetection, reasons: Sequence[str], total: int, what: str) -> list[str]:
    """A line if more than a tolerated share is left out for these reasons."""
    lost = sorted(((dataset.dropped[reason], reason) for reason in reasons if dataset.dropped[reason]), reverse=True)
    count = sum(number for number, _ in lost)
    if count <= _TOLERATED * total:
        return []
    reported = [f"{n} {reason}" + (f" ({dataset.examples[reason]})" if reason in dataset.examples else "")
            for n, reason in lost]  # fmt: skip
    return [f"{count} of {total} {what} are left out: {', '.join(reported)}"]


def tell_warnings(*datasets: CocoDetection) -> None:
    """Reports the warnings that were not reported before."""
    for dataset in datasets:
        for line in warnings(dataset):
            if line not in dataset.reported:
                dataset.reported.add(line)
                report_line(line)


def require_usable(dataset: CocoDetection) -> None:
    """ValueError if the file has annotations of which not one can be used."""
    if dataset.num_annotations and not dataset.num_boxes:
        raise ValueError(f"no annotation can be used: {warnings(dataset)[0]}")
