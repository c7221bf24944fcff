"""Reads video files frame by frame, by PyAV (FFmpeg's libraries)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.errors import ImageDecodeError
from .cut_off import cut_off

Fault = ImageDecodeError | OSError
"""Why a video ends before its end, or cannot be read at all."""


class Frame(NamedTuple):
    """A frame of a video."""

    number: int
    """From 0, of all frames of the video."""
    time: Fraction
    """When it is shown, in seconds from the start of the file."""
    image: Tensor
    """uint8 [3, H, W], RGB, turned as the file asks."""


def import_pyav() -> Any:
    """The package ``av``. ImportError, naming the extra: it is not installed."""
    try:
        import av
    except ImportError as error:
        raise ImportError(f"videos need PyAV: pip install 'mlc-ext[video]' ({error})") from error
    return av


class VideoReader:
    """An opened video file; a context manager.

    Attributes:
        path: the file.
        rate: frames per second, on average.
        time_base: seconds of the unit in which the file has its times.
        aspect: width of a stored pixel by its height.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            ImportError: PyAV is not installed. OSError: the file cannot be read. ImageDecodeError: it is not a video.
        """
        self._av = import_pyav()
        self.path = path
        if not path.is_file():  # a pipe would be waited for
            raise OSError("not a regular file, or a link loop")
        self._missing = cut_off(path)
        try:
            # file: as the part of a name before a colon would be taken for a protocol; a playlist may open files only
            options = {"protocol_whitelist": "file"}
            self._container = self._av.open(f"file:{path}", container_options=options, metadata_errors="replace")
        except self._av.FFmpegError as error:
            raise self._fault(error, "cannot be opened as a video") from error
        self._stream = self._container.streams.best("video")
        try:
            if self._stream is None:
                raise ImageDecodeError("it has no video stream")
            if self._stream.codec_context is None:
                raise ImageDecodeError("PyAV has no decoder for its codec")
        except ImageDecodeError:
            self._container.close()
            raise
        stream, container = self._stream, self._container
        self.rate: Fraction = stream.average_rate or stream.guessed_rate or Fraction(25)
        self.time_base: Fraction = stream.time_base or 1 / self.rate
        self._start = Fraction(container.start_time or 0, self._av.time_base)
        self.aspect: Fraction = stream.sample_aspect_ratio or Fraction(1)
        seconds = stream.duration * self.time_base if stream.duration else Fraction(container.duration or 0, 10**6)
        self._expected: int = stream.frames or round(seconds * self.rate)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def expected(self, every: int = 1) -> int:
        """How many frames :meth:`frames` has by the file's header; 0 if it does not say."""
        return math.ceil(self._expected / every)

    def frames(self, every: int = 1) -> Iterator[Frame | Fault]:
        """Every ``every``-th frame, from the first. Frames are decoded when they are asked for.

        Where the file is damaged or cut off, the error is yielded after the frames before, and ends the iteration.
        """
        count, time, fault = 0, Fraction(0), None
        try:
            for frame in self._decoded():
                time = self._time(frame.pts, count)
                if count % every == 0:
                    yield Frame(count, time, self._pixels(frame))
                count += 1
        except (self._av.FFmpegError, ImageDecodeError) as error:
            fault = error
        where = f"ends after {count} frames ({float(time):.2f} s)" if count else "no frame can be decoded"
        if fault is not None:
            yield self._fault(fault, where)
        elif self._missing is not None:
            yield ImageDecodeError(f"{where}: it is cut off, with {self._missing}")
        elif not count:
            yield ImageDecodeError("it has no frames")

    def _fault(self, error: Any, where: str) -> Fault:
        """An error of FFmpeg, or of this file."""
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, OSError):
            return OSError(error.errno, f"{where}: {reason}")
        if self._missing is not None:
            reason = f"it is cut off, with {self._missing}"
        return ImageDecodeError(f"{where}: {reason}")

    def _decoded(self) -> Iterator[Any]:
        """PyAV's frames. Raises an error at the first damage after something could be decoded: a recording may begin
        with parts of frames, which players skip too."""
        decodable, started, first, next_dts = False, False, None, None
        for packet in self._container.demux(self._stream):
            if packet.size == 0:
                if packet.dts is not None:  # of AVI: the frame before is shown again
                    continue
                if self._missing is not None:  # a frame is stored no later than it is shown, so these are complete
                    yield from self._held(next_dts)
                    break
            elif packet.dts is not None:
                next_dts = packet.dts + max(packet.duration or 0, 1)
            error: Exception | None = ImageDecodeError("damaged data") if packet.is_corrupt else None
            frames, end = [], packet.pts
            if error is None:
                try:
                    frames = packet.decode()
                    decodable |= packet.size > 0
                except self._av.FFmpegError as raised:
                    error = raised
            for frame in frames:
                if not frame.is_corrupt:
                    started = True
                    yield frame
                elif started:
                    error, end = ImageDecodeError("damaged data"), frame.pts
                    break
            if error is None:
                continue
            first = first or error
            if decodable:
                yield from self._held(end)
                raise error
        if first is not None and not decodable:
            raise first

    def _held(self, end: int | None) -> Iterator[Any]:
        """What the decoder still has of the frames before ``end``, where something is missing."""
        try:
            frames = self._stream.codec_context.decode(None)
        except self._av.FFmpegError:
            return
        if end is not None:
            yield from (frame for frame in frames if not frame.is_corrupt and frame.pts is not None and frame.pts < end)

    def _time(self, pts: int | None, number: int) -> Fraction:
        if pts is None:
            return number / self.rate
        return max(Fraction(0), pts * self.time_base - self._start)

    def _pixels(self, frame: Any) -> Tensor:
        pixels = frame.to_ndarray(format="rgb24")
        for data in frame.side_data:
            if data.type.name == "DISPLAYMATRIX":
                pixels = upright(pixels, np.frombuffer(bytes(data), np.int32))
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def upright(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """An image [H, W, 3], turned and mirrored as the display matrix asks; by multiples of 90 degrees.

    Args:
        matrix: 9 numbers a, b, u, c, d, v, x, y, w. The pixel (p, q) is shown at (a p + c q + x, b p + d q + y).
            ISO/IEC 14496-12, 6.2.2.
    """
    a, b, _, c, d = matrix[:5].tolist()
    if abs(b) > abs(a):
        pixels, right, down = pixels.swapaxes(0, 1), c, b
    else:
        right, down = a, d
    return pixels[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
