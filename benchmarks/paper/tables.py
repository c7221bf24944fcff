"""Finished rows as tables, beside the paper's figures."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlc_ext.detectors.config.overrides import override as set_to
from mlc_ext.detectors.data.build import CACHE, build_validation_set
from mlc_ext.detectors.evaluation.coco_metrics import CocoEvaluator, ProposalEvaluator

from .bootstrap import Bootstrap, Difference, Matches, holm, match
from .parts import Part
from .rows import ROWS, STEMS, Table, baseline

HEADINGS = {"correlation": "corr (per gt)", "correlation_pooled": "corr (pooled)"}
BEGIN, END = "<!-- tables -->", "<!-- /tables -->"


@dataclass
class Found:
    """Rows that are done: ``parts[row]`` those of each seed, ``metrics[row]`` the last evaluation of each."""

    parts: dict[str, list[Part]]
    metrics: dict[str, list[dict[str, float]]]
    split: str = "val"
    """The images that these are the figures of, see :data:`paper.data.SPLITS`."""
    resamples: int = 0
    against: str | None = None
    """The row that the others are compared with; None: each with its baseline."""
    _matches: dict[str, list[Matches]] = field(default_factory=dict, repr=False)
    _drawn: dict[tuple[str, str], np.ndarray] = field(default_factory=dict, repr=False)
    _bootstraps: dict[int, Bootstrap] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self.parts)

    def of(self, row: str, metric: str) -> np.ndarray:
        """[seeds], in percent but for correlations; NaN where a metric is not defined."""
        values = [entry.get(metric) for entry in self.metrics.get(row, [])]
        scale = 100 if metric.startswith("A") else 1
        return np.array([math.nan if value is None else scale * value for value in values])

    def matches(self, row: str) -> list[Matches]:
        """Of each seed, from the detections that its run left."""
        if row not in self._matches:
            self._matches[row] = self._read_matches(row)
        return self._matches[row]

    def _read_matches(self, row: str) -> list[Matches]:
        found = []
        for part in self.parts[row]:
            config = part.data.with_split(part.config, self.split)
            dataset = build_validation_set(set_to(config, "data.cache", False), CACHE)  # no image is looked at
            proposals = part.config.model.detector == "rpn"
            truth = (ProposalEvaluator if proposals else CocoEvaluator)(dataset).truth
            splits = part.data.evaluated if self.split == "all" else (self.split,)
            results = [row for split in splits for row in json.loads(part.results(split).read_text())]
            counts = (100, 300, 1000) if proposals else ()
            found.append(match(truth, results, max_detections=max(counts, default=100), recall_at=counts))
        return found

    def _on_resamples(self, row: str, metric: str) -> np.ndarray:
        """[seeds, resamples]"""
        if (row, metric) not in self._drawn:
            matches = self.matches(row)
            images = len(matches[0].objects)
            bootstrap = self._bootstraps.setdefault(images, Bootstrap(images, self.resamples))
            self._drawn[row, metric] = np.stack([bootstrap.values(m, metric) for m in matches])
        return self._drawn[row, metric]

    def of_table(self, table: Table) -> Found:
        """The rows of a table, each with the seeds that all of them have."""
        rows = [row for row in table.rows if row in self.parts]
        seeds = set.intersection(*({part.config.run.seed for part in self.parts[row]} for row in rows)) if rows else ()
        parts, metrics, matches, drawn = {}, {}, {}, {}
        for row in rows:
            kept = [k for k, part in enumerate(self.parts[row]) if part.config.run.seed in seeds]
            parts[row] = [self.parts[row][k] for k in kept]
            metrics[row] = [self.metrics[row][k] for k in kept]
            if self.resamples > 0:
                matches[row] = [self.matches(row)[k] for k in kept]
                main = main_metric(row)
                drawn[row, main] = self._on_resamples(row, main)[kept]
        return dataclasses.replace(self, parts=parts, metrics=metrics, _matches=matches, _drawn=drawn)

    def differences(self) -> dict[str, Difference]:
        """{row: AP (RPN: AR@100) less its baseline's, or that of :attr:`against`}, in percent."""
        found = {}
        for row in self.parts if self.resamples > 0 else ():
            base, metric = self.against or baseline(row), main_metric(row)
            if base == row or base not in self.parts or not self.parts[row] or main_metric(base) != metric:
                continue
            plain = [
                100 * (ours.metric(metric) - theirs.metric(metric))[0]
                for ours, theirs in zip(self.matches(row), self.matches(base), strict=True)
            ]
            values = 100 * (self._on_resamples(row, metric) - self._on_resamples(base, metric))
            bootstrap = self._bootstraps[len(self.matches(row)[0].objects)]
            found[row] = bootstrap.difference(np.array(plain), values)
        return found


def main_metric(row: str) -> str:
    """The metric that rows of this detector are compared by."""
    return "AR@100" if STEMS[ROWS[row].stem].detector == "rpn" else "AP"


@dataclass
class Finished:
    """A table as far as it is done."""

    name: str
    table: Table
    found: Found
    differences: dict[str, Difference]
    corrected: dict[str, float]
    """p of each difference, by Holm's correction for the rows of the table."""

    @property
    def title(self) -> str:
        name = f"Table {self.name}" if self.name.isdigit() else self.name.replace("_", " ").capitalize()
        return f"{name}. {self.table.title}"

    @property
    def seeds(self) -> str:
        count = max(map(len, self.found.parts.values()), default=0)
        commits = {part.commit for parts in self.found.parts.values() for part in parts} - {None}
        trained = f", trained at {', '.join(sorted(commits))}" if commits else ""
        images = {"val": "", "test": " on the images held back", "all": " on all validation images"}[self.found.split]
        return f"{count} seed{'' if count == 1 else 's'}{images}{trained}"


def finish(tables: Mapping[str, Table], found: Found) -> list[Finished]:
    """The tables by name, each with what is done of it."""
    finished = []
    for name, table in tables.items():
        part = found.of_table(table)
        differences = part.differences()
        corrected = dict(zip(differences, holm([d.p for d in differences.values()]), strict=True))
        finished.append(Finished(name, table, part, differences, corrected))
    return finished


def collect(parts: Sequence[Part], resamples: int, *, split: str = "val", against: str | None = None) -> Found:
    """What is done of ``parts``, with ``resamples`` bootstrap draws for the intervals (0: none)."""
    found = Found({}, {}, split, resamples, against)
    for part in parts:
        if part.is_stem or not part.done or (split != "val" and not part.metrics("test").exists()):
            continue
        found.parts.setdefault(part.key, []).append(part)
        if split != "all":
            metrics = json.loads(part.metrics(split).read_text())["metrics"]
            found.metrics.setdefault(part.key, []).append(metrics)
    if split == "all":
        # Of the detections of both parts. Correlations and AR100 need more than detections and are left out.
        for row in found.parts:
            names = ("AR@100", "AR@300", "AR@1000") if main_metric(row) == "AR@100" else ("AP", "AP50", "AP75")
            found.metrics[row] = [{m: float(matches.metric(m)[0]) for m in names} for matches in found.matches(row)]
    return found


def _in_paper(table: Table) -> list[str]:
    """Metrics that the paper has of the table; of a table that is not the paper's, none."""
    if not all(ROWS[row].paper for row in table.rows):
        return []
    return [m for m in table.metrics if any(m in ROWS[row].paper for row in table.rows)]


def _columns(finished: Finished) -> list[str]:
    """The paper's metrics, ours, and the difference: a heading each."""
    table, against = finished.table, finished.found.against
    in_paper = _in_paper(table)
    compared_with = "baseline's" if against is None else f"that of {ROWS[against].name}"
    main = "AR@100" if "AR@100" in table.metrics else "AP"
    return [
        "",
        *(f"paper: {HEADINGS.get(metric, metric).replace(' (per gt)', '')}" for metric in in_paper),
        *(HEADINGS.get(metric, metric) for metric in table.metrics),
        f"{main} - {compared_with} [95 %]",
        "p (Holm)",
    ]


def _row(row: str, finished: Finished) -> list[str]:
    table, paper = finished.table, ROWS[row].paper
    cells = [ROWS[row].name]
    cells += [_number(paper[m], m) if m in paper else "-" for m in _in_paper(table)]
    cells += [_mean(finished.found.of(row, m), m) for m in table.metrics]
    d = finished.differences.get(row)
    if d is None:
        return [*cells, "", ""]
    return [*cells, f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]", f"{finished.corrected[row]:.3f}"]


def _number(value: float, metric: str) -> str:
    return f"{value:.1f}" if metric.startswith("A") else f"{value:.2f}"


def _mean(values: np.ndarray, metric: str) -> str:
    """Mean and standard deviation over seeds."""
    if len(values) == 0 or np.isnan(values).all():
        return "-"
    digits = 2 if metric.startswith("A") else 3
    deviation = f" ± {np.nanstd(values, ddof=1):.{digits}f}" if np.isfinite(values).sum() > 1 else ""
    return f"{np.nanmean(values):.{digits}f}{deviation}"


def as_text(tables: Sequence[Finished]) -> str:
    lines = []
    for each in tables:
        rows = [_columns(each), *(_row(row, each) for row in each.table.rows)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        lines.append(f"{each.title} ({each.seeds})")
        for cells in rows:
            first, *rest = (f"{cell:{'<' if k == 0 else '>'}{widths[k]}}" for k, cell in enumerate(cells))
            lines.append("  ".join([first, *rest]).rstrip())
        lines.append("")
    return "\n".join(lines)


def as_markdown(tables: Sequence[Finished], facts: str) -> str:
    """``facts``: a line on how the figures came about."""
    lines = [facts, ""]
    for each in tables:
        columns = _columns(each)
        lines += [f"### {each.title}", "", f"{each.seeds}.", ""]
        lines += ["| " + " | ".join(columns) + " |", "|---|" + "--:|" * (len(columns) - 1)]
        lines += ["| " + " | ".join(_row(row, each)) + " |" for row in each.table.rows]
        lines.append("")
    return "\n".join(lines)


def replace_marked(path: Path, text: str) -> None:
    """Writes ``text`` between the marks of a file, or at its end with new ones."""
    block = f"{BEGIN}\n{text.rstrip()}\n{END}"
    before = path.read_text() if path.exists() else ""
    marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if marked.search(before):
        path.write_text(marked.sub(lambda _: block, before, count=1))
    else:
        path.write_text(f"{before.rstrip()}\n\n{block}\n".lstrip())
