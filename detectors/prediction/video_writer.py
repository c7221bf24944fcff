"""Writes drawings of frames as a video, by PyAV."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import interrupts
from ..runs.files import replacing, writing
from .video_reader import import_pyav

_ENCODERS = {
    "libx264": {"preset": "veryfast", "crf": "20"},
    "libopenh264": {},
    "mpeg4": {},
}
"""The first one that PyAV was built with, and its options."""

_BITS = 0.2
"""Per pixel, for encoders without a constant quality."""

_BT709, _LIMITED = 1, 1
"""FFmpeg's numbers of the color space and range that the file is written in, and marked with."""


class VideoWriter:
    """An MP4 file of pictures with their times; a context manager.

    The file is complete, and replaces an older one, when the context ends without an error; without a picture, none is
    written. All pictures get the size of the first, with a row or column repeated where a side is odd: H.264 has even
    sides.

    Args:
        target: the file; its folder is made.
        rate: pictures per second, on average.
        time_base: seconds of the unit of the times.
        aspect: width of a pixel by its height.

    Raises:
        OSError, naming ``target``, in all methods: it cannot be written.
    """

    def __init__(self, target: Path, rate: Fraction, time_base: Fraction, aspect: Fraction) -> None:
        self._av = import_pyav()
        self._target, self._rate, self._time_base, self._aspect = target, rate, time_base, aspect
        self._file = contextlib.ExitStack()
        self._container: Any = None
        self._last = -1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None and self._container is not None:
                with self._writing():
                    self._container.mux(self._stream.encode())
                    self._container.close()
                    self._file.close()
        except BaseException as failure:
            self._discard(failure)
            raise
        if error is not None:
            self._discard(error)

    def add(self, picture: Image.Image, time: float) -> None:
        """Adds a picture that is shown from ``time``, in seconds. One that is not later than the one before gets the
        next possible time."""
        with self._writing():
            if self._container is None:
                self._open(picture.size)
            if picture.size != self._size:
                picture = picture.resize(self._size)
            width, height = self._size
            pixels = np.pad(np.asarray(picture), ((0, height % 2), (0, width % 2), (0, 0)), "edge")
            frame = self._av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED)
            self._last = frame.pts = max(self._last + 1, round(time / self._time_base))
            frame.time_base = self._time_base
            self._container.mux(self._stream.encode(frame))

    def _open(self, size: tuple[int, int]) -> None:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        file = self._file.enter_context(replacing(self._target))
        self._size = width, height = size
        name = next(name for name in _ENCODERS if self._has(name))
        if name == "mpeg4" and self._time_base.denominator > 65535:  # its limit
            self._time_base = Fraction(1, 60000)
        self._container = self._av.open(f"file:{file.name}", "w", format="mp4")
        self._stream = self._container.add_stream(name, rate=self._rate, options=_ENCODERS[name])
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = self._time_base
        context.sample_aspect_ratio = self._aspect
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        if not _ENCODERS[name]:
            context.bit_rate = max(100_000, round(_BITS * width * height * self._rate))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Within, errors are OSErrors that name the file, and Ctrl-C waits: half of a frame is not written. A second
        one does not wait."""
        with interrupts.deferred() as signals, writing(self._target):
            try:
                yield
            except self._av.FFmpegError as error:
                raise error if isinstance(error, OSError) else OSError(error.strerror) from error
        if signals:
            raise KeyboardInterrupt

    def _has(self, encoder: str) -> bool:
        try:
            self._av.Codec(encoder, "w")
        except ValueError:
            return False
        return True

    def _discard(self, error: BaseException) -> None:
        """Closes the file and removes it."""
        if self._container is not None:
            with contextlib.suppress(OSError):  # the full disk, again
                self._container.close()
        with contextlib.suppress(type(error)):
            self._file.__exit__(type(error), error, error.__traceback__)
