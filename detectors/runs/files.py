"""Files of a run: written atomically, as standard JSON."""

from __future__ import annotations

import math
import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a temporary file and renames it to ``path``, which is never an incomplete file."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    os.replace(temporary, path)


def plain(value: object) -> object:
    """``value`` with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
