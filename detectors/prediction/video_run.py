"""Predicts on a video file and draws it, frame by frame."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import interrupts
from ..data.errors import ImageDecodeError
from .predictor import Predictor
from .result import FrameDetections
from .video_reader import VideoReader
from .video_writer import VideoWriter

Row = dict[str, Any]


def predict_video(
    predictor: Predictor,
    path: Path,
    target: Path | None,
    begin: Callable[[int], None],
    add: Callable[[list[Row]], None],
    *,
    threshold: float,
    batch_size: int | None,
    every: int,
    first_id: int,
) -> Exception | None:
    """Predicts on every ``every``-th frame, and writes a video of the drawings.

    Args:
        target: the video that is written; None draws nothing. After a fault of ``path`` or Ctrl-C it has the frames
            before; after an error in writing it is not there.
        begin: called with the expected number of frames, 0 if it is unknown, once the file is open.
        add: called with the rows of predictions.json of each frame, in order.
        first_id: the image id of frame 0.

    Returns:
        Why the file, or its rest, could not be read; None if it was read to its end.

    Raises:
        OSError: the drawing cannot be written. KeyboardInterrupt: after Ctrl-C.
    """
    with contextlib.ExitStack() as stack:
        try:
            reader = stack.enter_context(VideoReader(path))
        except (ImportError, OSError, ImageDecodeError) as error:
            return error
        begin(reader.expected(every))
        writer = None
        if target is not None:
            writer = VideoWriter(target, reader.rate / every, reader.time_base, reader.aspect)
            stack.enter_context(writer)
        outcomes = predictor.frames(reader, threshold=threshold, batch_size=batch_size, every=every, first_id=first_id)
        try:
            for outcome in outcomes:
                interrupts.check()
                if isinstance(outcome, Exception):
                    return outcome
                scale = 1 if writer is None else _draw(outcome, writer)
                add(scaled(outcome.to_coco(), scale))
        except KeyboardInterrupt as error:
            interrupt = error
        else:
            return None
    raise interrupt  # the drawing is complete


def _draw(found: FrameDetections, writer: VideoWriter) -> int:
    """Writes the drawing; how many times larger than the frame it is."""
    drawing = found.draw()
    writer.add(drawing, found.time)
    return drawing.width // found.image_size[1]


def scaled(rows: list[Row], scale: int) -> list[Row]:
    """Rows with the factor by which their drawing is enlarged, unless it is 1."""
    return rows if scale == 1 else [{**row, "drawing_scale": scale} for row in rows]
