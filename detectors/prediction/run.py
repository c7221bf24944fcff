"""Predicts on many image files: draws the detections and writes them in COCO's results format."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from .. import distributed, interrupts
from ..runs.files import write_whole, writing
from .batches import reason
from .images import image_ids
from .predictor import Predictor
from .result import Detections

RESULTS = "predictions.json"

Row = dict[str, Any]


@dataclass
class Progress:
    """What :func:`predict` did before it ended, of all ranks."""

    found: dict[int, list[Row]] = field(default_factory=dict)
    """Rows of predictions.json, by the number of the image."""
    errors: dict[int, str] = field(default_factory=dict)
    """Why an image could not be read, or its drawing not be written, by the number of the image."""
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def rows(self) -> list[Row]:
        """Those of predictions.json, in the order of the images."""
        return [row for number in sorted(self.found) for row in self.found[number]]


def predict(
    predictor: Predictor,
    images: Sequence[tuple[Path, Path]],
    out: Path,
    *,
    score_threshold: float,
    batch_size: int | None = None,
    draw: bool = True,
    progress: bool = True,
) -> Progress:
    """Predicts on every image, draws into ``out`` and writes ``out/predictions.json``, whatever ends it.

    Several ranks take every n-th image each; rank 0 writes the JSON of all, and every rank returns what all did. An
    image that cannot be read, or does not fit in memory, fails alone. OSError: the disk of ``out`` is full.

    Args:
        images: (file, place of its drawing below ``out``).
    """
    done, began = Progress(), time.monotonic()
    ids = image_ids([path for path, _ in images])
    mine = range(distributed.rank(), len(images), distributed.world_size())
    outcomes = predictor.stream(
        [images[number][0] for number in mine],
        threshold=score_threshold,
        batch_size=batch_size,
        ids=[ids[number] for number in mine],
    )
    bar = tqdm(mine, unit="img", disable=not (progress and distributed.is_main()), dynamic_ncols=True)
    try:
        for number in bar:
            interrupts.check()
            outcome = next(outcomes)
            if isinstance(outcome, Exception):
                done.errors[number] = reason(outcome)
                continue
            done.found[number] = rows = outcome.result.to_coco()
            if draw:
                place = images[number][1]
                try:
                    scale = _draw(outcome.result, outcome.image, out / place.with_name(_drawing_name(place.name)))
                except OSError as error:
                    if error.errno in _DISK:
                        raise
                    done.errors[number] = f"its drawing is not written: {error}"
                    continue
                if scale != 1:
                    done.found[number] = [{**row, "drawing_scale": scale} for row in rows]
    except KeyboardInterrupt:
        done.interrupted = True
    finally:
        with interrupts.deferred() as signals:
            done = _merged(distributed.gather(done))
            if distributed.is_main():
                write_whole(out / RESULTS, json.dumps(done.rows, indent=1) + "\n")
        done.interrupted |= bool(signals)
        done.seconds = time.monotonic() - began
    return done


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors that every later image would meet too."""


def _merged(parts: Sequence[Progress]) -> Progress:
    whole = Progress()
    for part in parts:
        whole.found |= part.found
        whole.errors |= part.errors
        whole.interrupted |= part.interrupted
    return whole


def _draw(result: Detections, image: Tensor, target: Path) -> int:
    """Writes the drawing; how many times larger than the image it is."""
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        drawing = result.draw_on(image)
        drawing.save(target)
    return drawing.width // image.shape[-1]


def _drawing_name(name: str) -> str:
    """The image's name with .png; a longer one than file systems have is cut and made distinct by a digest."""
    if len(os.fsencode(name)) + len(".png") <= 255:
        return f"{name}.png"
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    return f"{os.fsencode(name)[:200].decode(errors='ignore')}~{digest}.png"
