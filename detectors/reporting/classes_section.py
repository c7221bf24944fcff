"""The page's section on classes and errors."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation.confusion import Confusion
from ..evaluation.error_shares import KINDS, ErrorShare
from ..evaluation.explanation import MOST_CLASSES, ClassMetrics, Explanation, most_objects
from ..evaluation.metrics_table import shown
from .charts import Chart
from .html_page import figures, table, text

_LARGEST = 10
_OPEN = 20
"""Classes of a table that is shown without being opened."""

_ERRORS_NOTE = (
    "Errors at IoU .5 by TIDE's kinds (Bolya et al. 2020), of detections of any score. dAP50: the AP50 that would be "
    "gained if all errors of the kind were fixed, each kind alone; small: their count; -: no class is left, AP50 is "
    "undefined. A false positive has the first kind of the list that applies."
)


def classes_section(
    known: Sequence[tuple[str, Explanation]], errors: Sequence[Chart], by_run: Sequence[Sequence[Chart]]
) -> str:
    """The section of runs by name; ``by_run`` are the charts of each."""
    parts = [_errors(known, errors), "<h3>Confusion and curves by class</h3>", _confusion_note(known[0][1].confusion)]
    for (name, found), charts in zip(known, by_run, strict=True):
        parts.append(
            f"<h4>{text(name)}</h4>{figures(charts)}{_most_confused(found.confusion)}{_classes(found.classes)}"
        )
    return "".join(parts)


def _errors(known: Sequence[tuple[str, Explanation]], charts: Sequence[Chart]) -> str:
    kinds = [(name, [found.errors.kinds[name] for _, found in known]) for name in KINDS]
    kinds.append(("false positives", [found.errors.false_positives for _, found in known]))
    kinds.append(("false negatives", [found.errors.false_negatives for _, found in known]))
    rows = [[name, *map(_share, shares)] for name, shares in kinds]
    head = ["", *(f"{text(name)}<br>dAP50" for name, _ in known)]
    meanings = "".join(f"<dt>{name}</dt><dd>{text(meaning)}</dd>" for name, meaning in KINDS.items())
    explained = f"<details><summary>What the kinds mean</summary><dl>{meanings}</dl></details>"
    return f'<p class="note">{text(_ERRORS_NOTE)}</p>{explained}{figures(charts)}{table(head, rows)}'


def _share(share: ErrorShare) -> str:
    return f"{shown('AP50', share.gain)}<small>{share.count}</small>"


def _confusion_note(matrix: Confusion) -> str:
    note = (
        f"Confusion matrix: detections with score above {matrix.score_threshold:g} on objects, IoU at least "
        f"{matrix.iou:g}, first within their class and then across classes. Background as object: detections without "
        "an object; detected as background: objects without a detection. The color is the share of the row."
    )
    return f'<p class="note">{text(note)}</p>'


def _most_confused(matrix: Confusion) -> str:
    rows = [
        [text(each.truth), text(each.detected), str(each.count), f"{100 * each.share:.1f}%"]
        for each in matrix.largest(_LARGEST)
    ]
    if not rows:
        return "<p>No two classes are confused.</p>"
    return f"<h5>Most confused</h5>{table(['object', 'detected as', 'count', 'share'], rows)}"


def _classes(classes: Sequence[ClassMetrics]) -> str:
    listed = most_objects(classes)
    keys = ("AP", "AP50", "AP75", "AR")
    rows = [[text(each.name), str(each.objects), *(shown(key, getattr(each, key)) for key in keys)] for each in listed]
    more = len(classes) - len(listed)
    note = f'<p class="note">The {MOST_CLASSES} classes of most objects; {more} more are not shown.</p>' if more else ""
    content = table(["class", "objects", *keys], rows) + note
    if len(classes) > _OPEN:
        return f"<details><summary>All {len(classes)} classes as a table</summary>{content}</details>"
    return f"<h5>By class</h5>{content}"
