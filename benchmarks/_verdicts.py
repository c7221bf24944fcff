"""Targets and whether a measurement meets them."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Verdict:
    """One target of a measured thing. A thing that could not be measured neither meets nor misses it."""

    subject: str
    what: str
    """What was measured: a time, a ratio to a peer, a share of a limit."""
    unit: str
    bound: float
    at_most: bool
    measured: float | None
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.measured is None or self.measured != self.measured:
            return None
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound

    @property
    def word(self) -> str:
        return {True: "met", False: "missed", None: "not measured"}[self.met]

    def as_dict(self) -> dict[str, object]:
        return asdict(self) | {"verdict": self.word}


def table(verdicts: list[Verdict]) -> list[str]:
    """Lines of markdown."""
    lines = ["| case | target | bound | measured | |", "|---|---|--:|--:|---|"]
    for v in verdicts:
        sign, measured = "<=" if v.at_most else ">=", "-" if v.measured is None else f"{_number(v.measured)} {v.unit}"
        note = f" ({v.note})" if v.note else ""
        lines.append(f"| {v.subject} | {v.what} | {sign} {_number(v.bound)} {v.unit} | {measured} | {v.word}{note} |")
    return lines


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"
