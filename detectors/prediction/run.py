"""Predicts on many images: draws the detections and writes them in COCO's results format."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from .. import interrupts
from ..data.errors import ImageDecodeError
from ..data.images.decode import decode_image, read_image
from ..runs.files import write_whole, writing
from ..visualization.drawing import draw_detections
from .images import image_ids
from .predictor import Predictor

RESULTS = "predictions.json"

MAX_DRAWN = 100
"""Boxes drawn on an image, the best ones; the JSON holds all."""


def result_rows(detections: dict[str, Tensor], image_id: int, path: Path, predictor: Predictor) -> list[dict[str, Any]]:
    """Detections as rows of COCO's results format (boxes are x, y, width, height), with file and class names."""
    rows = []
    columns = (detections[key].tolist() for key in ("boxes", "labels", "scores"))
    for (x1, y1, x2, y2), label, score in zip(*columns, strict=True):
        rows.append(
            {
                "image_id": image_id,
                "file_name": str(path),
                "category_id": predictor.category_ids[label - 1],
                "category": predictor.names[label - 1],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
        )
    return rows


@dataclass
class Outcome:
    """What :func:`predict` did before it ended."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of predictions.json."""
    done: int = 0
    """Images that were predicted on."""
    failed: dict[Path, str] = field(default_factory=dict)
    """Why an image could not be read, or its drawing not be written."""
    interrupted: bool = False


def predict(
    predictor: Predictor,
    images: Sequence[tuple[Path, Path]],
    out: Path,
    *,
    score_threshold: float,
    draw: bool = True,
    progress: bool = True,
) -> Outcome:
    """Predicts on every image, draws into ``out`` and writes ``out/predictions.json``, whatever ends it.

    An image that cannot be read, or does not fit in memory, fails alone. OSError: the disk of ``out`` is full.
    """
    outcome = Outcome()
    ids = image_ids([path for path, _ in images])
    names = None if predictor.model.class_agnostic else predictor.names
    bar = tqdm(images, unit="img", disable=not progress, dynamic_ncols=True)
    try:
        for (path, place), image_id in zip(bar, ids, strict=True):
            interrupts.check()
            try:
                if not path.is_file():  # a pipe would be waited for
                    raise OSError("not a regular file, or a link loop")
                image = decode_image(read_image(path))
                found = predictor(image)
            except (OSError, ImageDecodeError, MemoryError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and "allocate" not in str(error):  # the allocator of CPU or GPU
                    raise
                outcome.failed[path] = str(error).partition("\n")[0] or "not enough memory"
                continue
            kept = found["scores"] > score_threshold
            found = {key: value[kept] for key, value in found.items()}
            outcome.rows += result_rows(found, image_id, path, predictor)
            outcome.done += 1
            if draw:
                target = out / place.with_name(_drawing_name(place.name))
                try:
                    with writing(target):
                        target.parent.mkdir(parents=True, exist_ok=True)
                        draw_detections(image, {key: value[:MAX_DRAWN] for key, value in found.items()}, names).save(
                            target
                        )
                except OSError as error:
                    if error.errno in _DISK:
                        raise
                    outcome.failed[path] = f"its drawing is not written: {error}"
    except KeyboardInterrupt:
        outcome.interrupted = True
    finally:
        with interrupts.deferred() as signals:
            write_whole(out / RESULTS, json.dumps(outcome.rows, indent=1) + "\n")
        outcome.interrupted |= bool(signals)
    return outcome


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors that every later image would meet too."""


def _drawing_name(name: str) -> str:
    """The image's name with .png; a longer one than file systems have is cut and made distinct by a digest."""
    if len(os.fsencode(name)) + len(".png") <= 255:
        return f"{name}.png"
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    return f"{os.fsencode(name)[:200].decode(errors='ignore')}~{digest}.png"
