"""Predicts on many images and videos: draws the detections and writes them in COCO's results format."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from .. import distributed, interrupts
from ..runs.files import write_whole, writing
from .batches import reason
from .images import drawing_name, is_video, row_ids
from .predictor import Predictor
from .result import Detections
from .video_run import Row, predict_video, scaled

RESULTS = "predictions.json"


@dataclass
class Progress:
    """What :func:`predict` did before it ended, of all ranks."""

    found: dict[int, list[Row]] = field(default_factory=dict)
    """Rows of predictions.json, by the number of the file."""
    frames: dict[int, int] = field(default_factory=dict)
    """How many frames were predicted on, by the number of the video."""
    errors: dict[int, str] = field(default_factory=dict)
    """Why a file could not be read, or not to its end, or its drawing not be written, by the number of the file."""
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def rows(self) -> list[Row]:
        """Those of predictions.json, in the order of the files."""
        return [row for number in sorted(self.found) for row in self.found[number]]


def predict(
    predictor: Predictor,
    files: Sequence[tuple[Path, Path]],
    out: Path,
    *,
    score_threshold: float,
    batch_size: int | None = None,
    every: int = 1,
    draw: bool = True,
    progress: bool = True,
) -> Progress:
    """Predicts on every file, draws into ``out`` and writes ``out/predictions.json``, whatever ends it.

    Images come first, then videos. Several ranks take every n-th file each, a video as a whole; rank 0 writes the JSON
    of all, and every rank returns what all did. A file that cannot be read, or does not fit in memory, fails alone.
    OSError: the disk of ``out`` is full.

    Args:
        files: images and videos (``is_video``): (file, place of its drawing below ``out``).
        every: of a video, every n-th frame is predicted on and drawn.
    """
    began = time.monotonic()
    in_order = sorted(range(len(files)), key=lambda number: is_video(files[number][0]))
    mine = in_order[distributed.rank() :: distributed.world_size()]
    images = [number for number in mine if not is_video(files[number][0])]
    bar = tqdm(total=len(mine), unit="img", disable=not (progress and distributed.is_main()), dynamic_ncols=True)
    run = _Run(predictor, files, out if draw else None, score_threshold, batch_size, every, bar)
    done = run.done
    try:
        run.images(images)
        for number in mine[len(images) :]:
            run.video(number)
    except KeyboardInterrupt:
        done.interrupted = True
    finally:
        bar.close()
        with interrupts.deferred() as signals:
            done = _merged(distributed.gather(done))
            if distributed.is_main():
                write_whole(out / RESULTS, json.dumps(done.rows, indent=1) + "\n")
        done.interrupted |= bool(signals)
        done.seconds = time.monotonic() - began
    return done


class _Run:
    """The predictions of this rank; ``done`` has what was done so far.

    Args:
        out: folder of the drawings; None draws nothing.
    """

    def __init__(
        self,
        predictor: Predictor,
        files: Sequence[tuple[Path, Path]],
        out: Path | None,
        threshold: float,
        batch_size: int | None,
        every: int,
        bar: tqdm,
    ) -> None:
        self.predictor, self.files, self.out, self.every, self.bar = predictor, files, out, every, bar
        self.options = {"threshold": threshold, "batch_size": batch_size}
        self.ids = row_ids([path for path, _ in files])
        self.done = Progress()

    def images(self, numbers: Sequence[int]) -> None:
        paths, ids = [self.files[number][0] for number in numbers], [self.ids[number] for number in numbers]
        outcomes = self.predictor.stream(paths, ids=ids, **self.options)
        for number in numbers:
            interrupts.check()
            outcome = next(outcomes)
            self.bar.update()
            if isinstance(outcome, Exception):
                self.done.errors[number] = reason(outcome)
                continue
            self.done.found[number] = rows = outcome.result.to_coco()
            if self.out is not None:
                place = self.out / self.files[number][1]
                try:
                    scale = _draw(outcome.result, outcome.image, place.with_name(drawing_name(place.name, ".png")))
                except OSError as error:
                    self._not_drawn(number, error)
                    continue
                self.done.found[number] = scaled(rows, scale)

    def video(self, number: int) -> None:
        interrupts.check()
        path, place = self.files[number]
        target = None if self.out is None else self.out / place
        rows: list[Row] = []

        def begin(expected: int) -> None:
            self.bar.total += max(expected - 1, 0)
            self.done.found[number], self.done.frames[number] = rows, 0

        def add(of_frame: list[Row]) -> None:
            rows.extend(of_frame)
            self.done.frames[number] += 1
            self.bar.update()

        try:
            options = {"every": self.every, "first_id": self.ids[number], **self.options}
            fault = predict_video(self.predictor, path, target, begin, add, **options)
        except OSError as error:
            self._not_drawn(number, error)
        else:
            if fault is not None:
                self.done.errors[number] = reason(fault)

    def _not_drawn(self, number: int, error: OSError) -> None:
        if error.errno in _DISK:
            raise error
        self.done.errors[number] = f"its drawing is not written: {error}"


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors that every later image would meet too."""


def _merged(parts: Sequence[Progress]) -> Progress:
    whole = Progress()
    for part in parts:
        whole.found |= part.found
        whole.frames |= part.frames
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
