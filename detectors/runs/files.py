"""Files of a run: written whole or not at all, as plain JSON."""

from __future__ import annotations

import math
import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes beside ``path`` and renames: a reader, or a kill, never meets half a file."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    os.replace(temporary, path)


def plain(value: object) -> object:
    """JSON has neither NaN nor infinity: null."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
