"""Finished rows as tables, beside the paper's figures."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlc_ext.detectors.config.overrides import override as set_to
from mlc_ext.detectors.data.build import CACHE, build_validation_set
from mlc_ext.detectors.evaluation.coco_metrics import CocoEvaluator, ProposalEvaluator

from .bootstrap import Difference, Matches, match, paired_differences
from .parts import Part
from .rows import ROWS, STEMS, TABLES, Table, baseline

HEADINGS = {"correlation": "corr (per gt)", "correlation_pooled": "corr (pooled)"}
BEGIN, END = "<!-- tables -->", "<!-- /tables -->"


@dataclass
class Found:
    """Rows that are done: ``parts[row]`` those of each seed, ``metrics[row]`` the last evaluation of each."""

    parts: dict[str, list[Part]]
    metrics: dict[str, list[dict[str, float]]]
    _matches: dict[str, list[Matches]] = field(default_factory=dict, repr=False)

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
            dataset = build_validation_set(set_to(part.config, "data.cache", False), CACHE)  # no image is looked at
            proposals = part.config.model.detector == "rpn"
            truth = (ProposalEvaluator if proposals else CocoEvaluator)(dataset).truth
            results = json.loads((part.out / "results.json").read_text())
            counts = (100, 300, 1000) if proposals else ()
            found.append(match(truth, results, max_detections=max(counts, default=100), recall_at=counts))
        return found

    def of_table(self, table: Table) -> Found:
        """The rows of a table, each with the seeds that all of them have: what is compared is equally long."""
        rows = [row for row in table.rows if row in self.parts]
        seeds = min((len(self.parts[row]) for row in rows), default=0)
        matches = {row: self._matches[row][:seeds] for row in rows if row in self._matches}
        parts = {row: self.parts[row][:seeds] for row in rows}
        return Found(parts, {row: self.metrics[row][:seeds] for row in rows}, matches)

    def differences(self, resamples: int) -> dict[str, Difference]:
        """{row: AP (RPN: AR@100) less its baseline's}, in percent."""
        wanted: dict[str, list[str]] = {}
        for row in self.parts if resamples > 0 else ():
            wanted.setdefault(baseline(row), []).append(row)
        found = {}
        for base, rows in wanted.items():
            if base in self.parts:
                matches = {row: self.matches(row) for row in rows}
                metric = "AR@100" if STEMS[ROWS[base].stem].detector == "rpn" else "AP"
                found |= paired_differences(matches, base, metric, resamples=resamples)
        return {row: Difference(100 * d.mean, 100 * d.low, 100 * d.high) for row, d in found.items()}


@dataclass
class Finished:
    """A table as far as it is done."""

    name: str
    found: Found
    differences: dict[str, Difference]

    @property
    def table(self) -> Table:
        return TABLES[self.name]

    @property
    def title(self) -> str:
        return f"{f'Table {self.name}' if self.name.isdigit() else self.name.capitalize()}. {self.table.title}"

    @property
    def seeds(self) -> str:
        count = max(map(len, self.found.parts.values()), default=0)
        commits = {part.commit for parts in self.found.parts.values() for part in parts} - {None}
        trained = f", trained at {', '.join(sorted(commits))}" if commits else ""
        return f"{count} seed{'' if count == 1 else 's'}{trained}"


def finish(names: Sequence[str], found: Found, resamples: int) -> list[Finished]:
    """The named tables, with ``resamples`` bootstrap draws for the intervals (0: none)."""
    for row in dict.fromkeys(row for name in names for row in TABLES[name].rows):
        if resamples > 0 and row in found.parts:
            found.matches(row)  # read once for all tables
    tables = []
    for name in names:
        part = found.of_table(TABLES[name])
        tables.append(Finished(name, part, part.differences(resamples)))
    return tables


def collect(parts: Sequence[Part]) -> Found:
    """What is done of ``parts``."""
    found = Found({}, {})
    for part in parts:
        if part.is_stem or not part.done:
            continue
        key = part.out.name
        found.parts.setdefault(key, []).append(part)
        found.metrics.setdefault(key, []).append(json.loads((part.out / "metrics.json").read_text())["metrics"])
    return found


def _in_paper(table: Table) -> list[str]:
    """Metrics that the paper has of the table; of a table that is not the paper's, none."""
    if not all(ROWS[row].paper for row in table.rows):
        return []
    return [m for m in table.metrics if any(m in ROWS[row].paper for row in table.rows)]


def _columns(table: Table) -> list[str]:
    """The paper's metrics, ours, and the difference: a heading each."""
    in_paper = _in_paper(table)
    main = "AR@100" if "AR@100" in table.metrics else "AP"
    return [
        "",
        *(f"paper: {HEADINGS.get(metric, metric).replace(' (per gt)', '')}" for metric in in_paper),
        *(HEADINGS.get(metric, metric) for metric in table.metrics),
        f"{main} - baseline's [95 %]",
    ]


def _row(row: str, finished: Finished) -> list[str]:
    table, paper = finished.table, ROWS[row].paper
    cells = [ROWS[row].name]
    cells += [_number(paper[m], m) if m in paper else "-" for m in _in_paper(table)]
    cells += [_mean(finished.found.of(row, m), m) for m in table.metrics]
    d = finished.differences.get(row)
    return [*cells, f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]" if d else ""]


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
        rows = [_columns(each.table), *(_row(row, each) for row in each.table.rows)]
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
        columns = _columns(each.table)
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
