"""Video files whose frames differ in color, and the colors of what is read."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FORMATS = {
    "clip.mp4": ("mp4", "libx264"),
    "clip.mov": ("mov", "mpeg4"),
    "clip.mkv": ("matroska", "libx264"),
    "clip.avi": ("avi", "mpeg4"),
    "clip.webm": ("webm", "libvpx-vp9"),
    "clip.ts": ("mpegts", "libx264"),
    "clip.mpg": ("mpeg", "mpeg2video"),
}
"""Names of files: their container and encoder."""


def color(number: int) -> tuple[int, int, int]:
    """Of frame ``number``: 27 colors in turn, at least 80 apart."""
    return tuple(40 + 80 * (number // 3**channel % 3) for channel in range(3))


def number_of(pixel: np.ndarray | Sequence[int]) -> int:
    """The frame (modulo 27) whose color is nearest."""
    return min(range(27), key=lambda k: sum(abs(int(a) - b) for a, b in zip(pixel, color(k), strict=True)))


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """[H, W, 3]: the background has the frame's color; a white rectangle moves to the right."""
    height, width = size
    pixels = np.full((height, width, 3), color(number), np.uint8)
    left = (8 + 2 * number) % (width - width // 4)
    pixels[height // 4 : height // 2, left : left + width // 4] = 255
    return pixels


def write_video(
    path: Path,
    frames: int = 12,
    size: tuple[int, int] = (48, 64),
    *,
    times: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    container_options: dict[str, str] | None = None,
    sound: bool = False,
    group: int = 4,
) -> Path:
    """A video of :func:`picture`, in the container and with the encoder of ``FORMATS``.

    Args:
        times: of the frames, in units of ``time_base``; default: 0, 1, 2, ...
        sound: adds a stream of silence.
        group: most frames from one keyframe to the next.
    """
    container_format, encoder = FORMATS[f"clip{path.suffix}"]
    with av.open(str(path), "w", format=container_format, options=container_options or {}) as container:
        stream = container.add_stream(encoder, rate=25, options={"g": str(group)})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = time_base
        stream.codec_context.bit_rate = 2_000_000
        silence = (
            container.add_stream("aac" if container_format != "webm" else "libopus", rate=48000) if sound else None
        )
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, size), "rgb24")
            frame.pts, frame.time_base = number if times is None else times[number], time_base
            container.mux(stream.encode(frame))
            if silence is not None:
                container.mux(silence.encode(_silence(number)))
        container.mux(stream.encode())
        if silence is not None:
            container.mux(silence.encode())
    return path


def write_sound(path: Path) -> Path:
    """A file without a video stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        for number in range(5):
            container.mux(stream.encode(_silence(number)))
        container.mux(stream.encode())
    return path


def _silence(number: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((2, 1920), np.float32), "fltp", "stereo")
    frame.sample_rate, frame.pts, frame.time_base = 48000, 1920 * number, Fraction(1, 48000)
    return frame


def read_video(path: Path) -> tuple[list[Fraction], list[np.ndarray]]:
    """Times and RGB pixels [H, W, 3] of all frames."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.pts * frame.time_base for frame in frames], [frame.to_ndarray(format="rgb24") for frame in frames]


def set_matrix(path: Path, matrix: Sequence[int]) -> None:
    """Writes the four numbers a, b, c, d of the display matrix into the track header of an MP4 file."""
    data = path.read_bytes()
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes
    a, b, c, d = (int(65536 * value).to_bytes(4, "big", signed=True) for value in matrix)
    assert data[at : at + 4] == (65536).to_bytes(4, "big")
    path.write_bytes(data[:at] + a + b + bytes(4) + c + d + data[at + 20 :])
