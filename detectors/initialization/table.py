"""The table of what was taken from a file."""

from __future__ import annotations

from pathlib import Path

from .source import Source
from .transfer import Transfer, setting_text


def transfer_table(path: Path, source: Source, transfer: Transfer) -> str:
    """The parts of the model, what each took and why not, and what the file has in addition."""
    rows = [(part.name, f"{part.taken} of {part.total}", part.remark) for part in transfer.parts]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    taken, total = sum(part.taken for part in transfer.parts), sum(part.total for part in transfer.parts)
    lines = [f"starting from {path}, {source.kind}: {taken} of {total} tensors are taken"]
    for name, count, remark in rows:
        lines.append(f"  {name:{widths[0]}}  {count:>{widths[1]}}  {remark}".rstrip())
    if transfer.unused:
        listed = ", ".join(f"{name} ({count})" for name, count in transfer.unused.items())
        lines.append(f"  only in the file: {listed}")
    lines += [f"  note: {note}" for note in transfer.notes]
    if transfer.other_settings:
        settings = " ".join(
            f"--set model.{name}={setting_text(theirs)}" for name, (theirs, _) in transfer.other_settings.items()
        )
        lines.append(f"  the detections differ from the file's; its structure is {settings}")
    return "\n".join(lines)
