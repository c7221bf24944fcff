"""Text of other people's files, for terminals, pages and pictures."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with ? for control characters, line ends and bytes that are not UTF-8."""
    return "".join(c if c.isprintable() else "?" for c in text)
