"""The report as one HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluation.metrics_table import REPORTED, shown
from ..runs.history import Run, comparable, setting_differences
from .charts import Chart
from .classes_section import classes_section
from .embedded_images import Pictures
from .html_page import document, figure, figures, table, text
from .label_viewer import MAX_CANDIDATES, MAX_OBJECTS
from .run_evaluation import Findings
from .scatter import MAX_POINTS

_HERE = Path(__file__).parent


def embedded(value: object) -> str:
    """JSON within a script element: nothing in it can end the element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")


def build_page(
    runs: Sequence[Run],
    findings: Sequence[Findings | None],
    charts: dict[str, list[Chart]],
    pictures: Pictures,
) -> str:
    """The page, in ASCII alone. ``charts`` by section: legend, losses, metrics, scatter, curves, errors, classes;
    ``findings`` of each run."""
    known = [(run, found) for run, found in zip(runs, findings, strict=True) if found is not None]
    sections = [
        ("results", "Results", _runs(runs, findings) + _results(runs) + _settings(runs)),
        ("training", "Training", _training(charts["losses"], charts["metrics"])),
        ("scatter", "Score and IoU", _scatter(charts["scatter"], known)),
        ("curves", "Precision and recall", figures(charts["curves"]) or _absent("curves")),
        ("classes", "Classes and errors", _classes(known, charts["errors"], charts["classes"])),
        ("detections", "Detections", "".join(_gallery(run, found) for run, found in known) or _absent("detections")),
        ("labels", "Mutual labels", _labels(known, pictures) if known else _absent("labels")),
    ]
    title = ", ".join(run.name for run in runs)
    legend = "".join(figure(chart.uri, chart.text) for chart in charts["legend"])
    return document(
        title, sections, (_HERE / "viewer.js").read_text(encoding="utf-8"), f'<div class="legend">{legend}</div>'
    )


def _runs(runs: Sequence[Run], findings: Sequence[Findings | None]) -> str:
    items = []
    for run, found in zip(runs, findings, strict=True):
        facts = []
        if run.config is not None:
            parts = " and ".join(run.config.mlc.starts())
            facts.append(f"{run.config.model.detector}, {parts or 'without the method'}")
        facts.append(f"metrics: {run.source}" if run.source else "no metrics")
        if found is not None:
            facts.append(f"{found.checkpoint} of iteration {found.iteration} on {found.dataset}")
        notes = "".join(f'<p class="warning">{text(note)}</p>' for note in run.notes)
        items.append(f"<dt>{text(run.name)}</dt><dd>{'<br>'.join(map(text, facts))}{notes}</dd>")
    return f"<dl>{''.join(items)}</dl>"


def _results(runs: Sequence[Run]) -> str:
    columns = [(key, heading) for key, heading in REPORTED if any(key in run.metrics for run in runs)]
    if not columns:
        return '<p class="note">No run has been evaluated.</p>'
    rows = []
    for k, run in enumerate(runs):
        cells = []
        compared = k > 0 and comparable(runs[0], run)
        for key, _ in columns:
            value, first = (each.metrics.get(key, math.nan) for each in (run, runs[0]))
            change = f"<small>{shown(key, value - first, signed=True)}</small>" if compared else ""
            cells.append(shown(key, value) + change)
        rows.append([text(run.name), *cells])
    reported = (
        "AP and AR in percent (COCO); corr: Spearman's rank correlation of score and IoU before NMS, by gt (protocol "
        "a) and pooled (protocol b). -: not measured, or undefined."
    )
    if any(comparable(runs[0], run) for run in runs[1:]):
        reported += f" Small: the difference from {text(runs[0].name)}."
    others = [text(run.name) for run in runs if not comparable(runs[0], run)]
    warning = (
        f'<p class="warning"><strong>{", ".join(others)}: evaluated on another validation set than '
        f"{text(runs[0].name)}. These metrics cannot be compared.</strong></p>"
    )
    content = table(["", *(text(heading) for _, heading in columns)], rows)
    return (warning if others else "") + content + f'<p class="note">{reported}</p>'


def _settings(runs: Sequence[Run]) -> str:
    if len(runs) < 2:
        return ""
    differing = setting_differences(runs)
    if not differing:
        return "<h3>Settings that differ</h3><p>None.</p>"
    rows = []
    for name, values in sorted(differing.items()):
        cells = ["-" if run.config is None else text(value) for run, value in zip(runs, values, strict=True)]
        rows.append([text(name).replace(".", ".<wbr>"), *cells])
    return "<h3>Settings that differ</h3>" + table(["", *(text(run.name) for run in runs)], rows)


def _training(losses: Sequence[Chart], metrics: Sequence[Chart]) -> str:
    if not losses and not metrics:
        return _absent("history")
    reported = '<p class="note">Curves of more than 200 log entries are drawn as the means of 200 stretches.</p>'
    return f"{figures(losses)}{reported}<h3>Evaluations</h3>{figures(metrics) or _absent('evaluations')}"


def _scatter(charts: Sequence[Chart], known: Sequence[tuple[Run, Findings]]) -> str:
    if not charts:
        return _absent("pairs")
    parts = []
    for k, (run, found) in enumerate(known):
        measured = found.divergence.compute()
        caption = (
            f"rho (a) {shown('rho', measured['per_gt'])} over {measured['per_gt_count']} "
            f"objects ({measured['per_gt_skipped']} more where it is undefined), rho (b) "
            f"{shown('rho', measured['pooled'])} over {measured['pooled_count']} pairs"
        )
        parts.append(f"<h3>{text(run.name)}</h3><p>{caption}</p>{figures(charts[2 * k : 2 * k + 2])}")
    settings = known[0][1].divergence
    reported = (
        f"Predictions before NMS. (a): rho of each object's {settings.top_k} predictions of highest score, averaged "
        f"over objects. (b): one rho over all pairs with score &gt; {settings.score_threshold:g} and IoU &ge; "
        f"{settings.iou_threshold:g}; up to {MAX_POINTS} of them, evenly spaced, are drawn."
    )
    return f'<p class="note">{reported}</p>{"".join(parts)}'


def _classes(known: Sequence[tuple[Run, Findings]], errors: Sequence[Chart], charts: Sequence[Chart]) -> str:
    detailed = [(run.name, found.explanation) for run, found in known if found.explanation is not None]
    if not detailed:
        return _absent("classes")
    each = len(charts) // len(detailed)
    return classes_section(detailed, errors, [charts[k : k + each] for k in range(0, len(charts), each)])


def _gallery(run: Run, found: Findings) -> str:
    parts = [f"<h3>{text(run.name)}</h3>"]
    for group, crops in found.groups:
        shown_crops = "".join(
            figure(uri, caption, f"{text(caption)}<br><small>{text(file)}</small>") for uri, caption, file in crops
        )
        parts.append(
            f"<h4>{text(group.title)}</h4><p class='note'>{text(group.meaning)}; one an image at most.</p>"
            f'<div class="crops">{shown_crops or "<p>None.</p>"}</div>'
        )
    key = '<p class="note"><span class="dot pos"></span> detection <span class="dot obj"></span> object</p>'
    return parts[0] + key + "".join(parts[1:])


def _labels(known: Sequence[tuple[Run, Findings]], pictures: Pictures) -> str:
    data: dict[str, Any] = {"pictures": pictures.uris, "runs": []}
    static, tables = [], []
    for run, found in known:
        part = {key: value for key, value in found.labels.items() if key != "static"}
        data["runs"].append({"name": run.name, **part})
        static += [figure(uri, title, f"{text(run.name)}: {text(title)}") for title, uri in found.labels["static"]]
        tables.append(f"<h4>{text(run.name)}</h4>" + _objects(found.labels["images"]))
    reported = (
        "What the checkpoint would train with, from its predictions in evaluation mode. Every candidate prior of the "
        'chosen object: <span class="dot pos"></span> positive, <span class="dot neg"></span> negative, '
        '<span class="dot ign"></span> ignored; of anchors at one place a positive one is on top. Mutual labeling: a '
        "candidate is positive for classification if its <em>IoU</em> is above Otsu's threshold of the IoUs, for "
        "localization if its <em>score</em> is above that of the scores. Of each image up to "
        f"{MAX_OBJECTS} objects are here, the largest, and of a run up to {MAX_CANDIDATES} candidates."
    )
    return (
        f'<p class="note">{reported}</p><div id="viewer" hidden></div>'
        f"<noscript>{''.join(static)}</noscript>"
        f"<details><summary>All objects as a table</summary>{''.join(tables)}</details>"
        f'<script type="application/json" id="label-data">{embedded(data)}</script>'
    )


def _objects(images: Sequence[dict[str, Any]]) -> str:
    rows = []
    for image in images:
        for each in image["objects"]:
            counts = [
                f"{each['labels']['baseline'][task].count('+')} &rarr; {each['labels']['mutual'][task].count('+')}"
                + (" (fell back)" if each["fell_back"][task] else "")
                for task in ("cls", "loc")
            ]
            tau = ["-" if value is None else f"{value:.3f}" for value in (each["tau"]["iou"], each["tau"]["score"])]
            rows.append([text(each["name"]), text(image["name"]), str(len(each["x"])), counts[0], tau[0], counts[1],
                         tau[1]])  # fmt: skip
    head = ["object", "image", "candidates", "positive for classification, baseline &rarr; mutual", "Otsu of the IoUs",
            "for localization", "Otsu of the scores"]  # fmt: skip
    return table(head, rows)


def _absent(what: str) -> str:
    return f'<p class="note">No {what}: see the notes on the runs.</p>'
