"""The divergence of predictions from a file as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..evaluation.file_divergence import RANKINGS, FileDivergence, Group, Reliability
from ..evaluation.metrics_table import shown
from .charts import COLORS, Chart, drawing
from .html_page import document, figures, table, text
from .scatter import MAX_POINTS, scatter_charts

_MOST_CLASSES = 100
"""Classes in the page's table, those of most objects first; all are in --json."""

STAGES = {
    True: "BEFORE NMS: every prediction of the detector. This is the paper's measure.",
    False: (
        "AFTER NMS: what is left of the predictions. These correlations are higher than those before NMS and must not "
        "be compared with them: of one model (FCOS- + ML on generated images, docs/results.md) the correlation by "
        "object was .502 before and .588 after NMS."
    ),
}
"""What the figures are of, by whether NMS has not been applied."""


def divergence_charts(found: FileDivergence) -> list[Chart]:
    """The scatter of score and IoU, the distribution of rho over the objects, and the reliability curve."""
    charts = scatter_charts(found.divergence, 1, COLORS[0])
    bins: Reliability = found.reliability
    with drawing("reliability_1.png", "mean true IoU by score", charts, height=3.2) as axes:
        defined = bins.counts > 0
        axes.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=":", label="score = IoU")
        axes.plot(bins.scores[defined], bins.ious[defined], color=COLORS[1], marker="o", markersize=4,
                  label="mean true IoU of the predictions of a tenth of the scores")  # fmt: skip
        axes.set(title="reliability", xlabel="score ranked by", ylabel="true IoU", xlim=(0, 1), ylim=(0, 1))
    return charts


def divergence_page(
    found: FileDivergence,
    charts: Sequence[Chart],
    *,
    before_nms: bool,
    results: str,
    annotations: str,
    notes: Sequence[str],
) -> str:
    """The page, in ASCII alone. ``results`` and ``annotations`` name the files."""
    measured = found.divergence.compute()
    total = Group("all objects", measured["per_gt_count"] + measured["per_gt_skipped"], measured["per_gt"],
                  measured["per_gt_count"], measured["pooled"], measured["pooled_count"])  # fmt: skip
    settings = found.divergence
    warnings = "".join(f'<p class="warning">{text(note)}</p>' for note in notes)
    overview = (
        f'<p class="note"><strong>{text(STAGES[before_nms])}</strong></p>{warnings}'
        f"<dl><dt>predictions</dt><dd>{text(results)}</dd><dt>annotations</dt><dd>{text(annotations)}</dd></dl>"
        + _group_table("", [total, *found.sizes])
        + f'<p class="note">rho by object: Spearman\'s rank correlation of score and true IoU over the '
        f"{settings.top_k} predictions of highest score of an object, averaged over the objects. "
        f"Pooled: one rho over all pairs with score &gt; {settings.score_threshold:g} and IoU &ge; "
        f"{settings.iou_threshold:g}. Sizes are COCO's.</p>"
    )
    classes = sorted(found.classes, key=lambda group: -group.objects)
    more = len(classes) - _MOST_CLASSES
    by_class = _group_table("class", classes[:_MOST_CLASSES]) + (
        f'<p class="note">{more} classes of fewer objects are not in this table.</p>' if more > 0 else ""
    )
    bins = found.reliability
    numbers = table(
        ["score", "predictions", "mean score", "mean true IoU"],
        [
            [
                f"{k / len(bins.counts):.1f} to {(k + 1) / len(bins.counts):.1f}",
                str(count),
                _number(score),
                _number(iou),
            ]
            for k, (count, score, iou) in enumerate(zip(bins.counts, bins.scores, bins.ious, strict=True))
        ],
    )
    pictures = (
        figures(charts)
        + f'<p class="note">Up to {MAX_POINTS} pairs are drawn, evenly spaced. Reliability: all predictions with score '
        f"&gt; {settings.score_threshold:g}; the true IoU of one without an object of its class is 0.</p>"
        f"<details><summary>The reliability curve as a table</summary>{numbers}</details>"
    )
    sections = [
        ("divergence", "Divergence", overview),
        ("cost", "What it costs", _cost(found, before_nms)),
        ("pictures", "Score and IoU", pictures),
        ("classes", "By class", by_class),
    ]
    return document(f"Divergence of {results}", sections)


def _cost(found: FileDivergence, before_nms: bool) -> str:
    rows = [
        [text(RANKINGS[name]), *(shown(key, metrics[key]) for key in ("AP", "AP50", "AP75"))]
        for name, metrics in found.ap.items()
    ]
    note = "AP in percent, by pycocotools. The true IoU is the one with the nearest object of the class."
    if not before_nms:
        note += " An NMS ranked by the true IoU needs the predictions before NMS."
    return table(["ranking", "AP", "AP50", "AP75"], rows) + f'<p class="note">{note}</p>'


def _group_table(head: str, groups: Sequence[Group]) -> str:
    rows = [
        [
            text(group.name),
            str(group.objects),
            f"{_number(group.per_gt)}<small>of {group.per_gt_count}</small>",
            f"{_number(group.pooled)}<small>{group.pooled_count} pairs</small>",
        ]
        for group in groups
    ]
    return table([head, "objects", "rho by object", "pooled rho"], rows)


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"
