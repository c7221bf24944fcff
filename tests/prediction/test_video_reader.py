"""Frames of video files: all of them, in order, upright, at their times, up to the fault of a broken file."""

import itertools
import os
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from videos import FORMATS, color, number_of, picture, set_matrix, write_sound, write_video

from mlc_ext.detectors.data.errors import ImageDecodeError
from mlc_ext.detectors.prediction.video_reader import VideoReader, upright


def read(path, every=1):
    """-> numbers, times, colors as frame numbers, the fault or None."""
    with VideoReader(path) as reader:
        *frames, last = [None, *reader.frames(every)]
    fault = last if isinstance(last, Exception) else None
    frames = [frame for frame in [*frames, last] if frame is not None and frame is not fault]
    seen = [number_of(frame.image[:, 0, 0].tolist()) for frame in frames]
    return [frame.number for frame in frames], [frame.time for frame in frames], seen, fault


@pytest.mark.parametrize("name", FORMATS)
def test_every_frame_in_order(tmp_path, name):
    path = write_video(tmp_path / name, 12, sound=name not in ("clip.avi", "clip.mpg"))
    numbers, times, seen, fault = read(path)
    assert fault is None and numbers == seen == list(range(12))
    assert np.allclose([float(time - times[0]) for time in times], np.arange(12) / 25, atol=0.0011)
    assert 0 <= times[0] <= 0.03  # the sound may begin before
    with VideoReader(path) as reader:
        if name != "clip.mpg":  # whose length FFmpeg estimates
            assert abs(reader.expected() - 12) <= 1 and abs(reader.expected(5) - 3) <= 1
        frame = next(iter(reader.frames()))
    assert frame.image.shape == (3, 48, 64) and np.abs(frame.image[:, 0, 0].numpy() - np.array(color(0))).max() < 12


@pytest.mark.parametrize(("every", "expected"), [(1, range(7)), (3, (0, 3, 6)), (7, (0,)), (100, (0,))])
def test_every_nth_frame(tmp_path, every, expected):
    numbers, times, seen, fault = read(write_video(tmp_path / "clip.mp4", 7), every)
    assert fault is None and numbers == seen == list(expected)
    assert times == [Fraction(number, 25) for number in expected]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_a_variable_frame_rate(tmp_path, name):
    times = [0, 40, 55, 200, 201, 900, 1700]
    path = write_video(tmp_path / name, 7, times=times, time_base=Fraction(1, 1000))
    numbers, found, seen, fault = read(path)
    assert fault is None and numbers == seen == list(range(7)) and [1000 * time for time in found] == times


@pytest.mark.parametrize("turn", [*itertools.product((0, 1), (-1, 1), (-1, 1))])
def test_a_frame_is_turned_and_mirrored_as_the_matrix_asks(tmp_path, turn):
    """Each pixel (p, q) is shown at (a p + c q, b p + d q), moved into the picture."""
    swapped, first, second = turn
    a, b, c, d = (0, first, second, 0) if swapped else (first, 0, 0, second)
    stored = np.random.default_rng(0).integers(0, 255, (3, 5, 3), dtype=np.uint8)
    places = {(a * p + c * q, b * p + d * q): stored[q, p] for p in range(5) for q in range(3)}
    left, top = (min(place[axis] for place in places) for axis in (0, 1))
    shown = upright(stored, np.array([a, b, 0, c, d, 0, 0, 0, 1]) * 65536)
    assert shown.shape == ((5, 3, 3) if swapped else (3, 5, 3))
    assert all((shown[y - top, x - left] == value).all() for (x, y), value in places.items())

    path = write_video(tmp_path / "clip.mp4", 2)
    set_matrix(path, (a, b, c, d))
    with VideoReader(path) as reader:
        images = [frame.image.permute(1, 2, 0).numpy() for frame in reader.frames()]
    expected = upright(picture(1, (48, 64)), np.array([a, b, 0, c, d, 0, 0, 0, 1]))
    assert images[1].shape == expected.shape == ((64, 48, 3) if swapped else (48, 64, 3))
    assert np.abs(images[1].astype(int) - expected).mean() < 6


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize("share", [0.5, 0.6, 0.75, 0.8, 0.9])
@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.webm", "clip.avi"])
def test_a_file_that_is_cut_off_has_the_frames_before(tmp_path, name, sound, share):
    options = {"movflags": "faststart"} if name == "clip.mp4" else {}
    path = cut(write_video(tmp_path / name, 40, container_options=options, sound=sound and name != "clip.avi"), share)
    numbers, _, seen, fault = read(path)
    count = len(numbers)
    assert 5 < count < 40 and numbers == list(range(count)) and seen == [number % 27 for number in numbers]
    assert isinstance(fault, ImageDecodeError) and f"ends after {count} frames" in str(fault)
    assert f"it is cut off, with {os.path.getsize(path)} of " in str(fault)


def test_every_place_of_the_cut(tmp_path):
    """Also between two frames, where a frame that is shown earlier may be missing."""
    data = write_video(tmp_path / "clip.mp4", 12, container_options={"movflags": "faststart"}).read_bytes()
    counts = set()
    for size in range(data.index(b"mdat") + 4, len(data), 7):
        (tmp_path / "cut.mp4").write_bytes(data[:size])
        numbers, _, seen, fault = read(tmp_path / "cut.mp4")
        assert fault is not None and numbers == seen == list(range(len(numbers))), size
        counts.add(len(numbers))
    assert len(counts) > 8


@pytest.mark.parametrize("name", ["clip.ts", "clip.mpg"])
def test_a_stream_that_is_cut_off_has_the_frames_before(tmp_path, name):
    """It may end before a frame that is stored after a later one."""
    numbers, times, seen, _ = read(cut(write_video(tmp_path / name, 40), 0.6))
    assert 10 < len(numbers) < 40 and seen[:-2] == [number % 27 for number in numbers[:-2]]
    assert seen == [round(float(time - times[0]) * 25) % 27 for time in times]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.mkv", "clip.mpg", "clip.ts"])
def test_damage_ends_the_frames(tmp_path, name):
    path = write_video(tmp_path / name, 40, container_options={"movflags": "faststart"} if name == "clip.mp4" else {})
    data = bytearray(path.read_bytes())
    at = int(len(data) * 0.7)
    data[at : at + 400] = b"\x55" * 400
    path.write_bytes(data)
    numbers, _, seen, fault = read(path)
    assert isinstance(fault, ImageDecodeError) and f"ends after {len(numbers)} frames (" in str(fault)
    assert 5 < len(numbers) < 40 and seen == [number % 27 for number in numbers]


@pytest.mark.parametrize("name", FORMATS)
def test_random_damage_gives_frames_or_a_fault(tmp_path, name):
    """Never another error, nor frames without end."""
    data = write_video(tmp_path / name, 30, sound=name not in ("clip.avi", "clip.mpg")).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(data)
        for at in random.integers(0, len(data) if random.random() < 0.7 else 1000, random.choice([1, 5, 50])):
            damaged[at] = random.integers(256)
        path = tmp_path / f"damaged_{name}"
        path.write_bytes(damaged[: random.integers(len(data))] if random.random() < 0.3 else damaged)
        try:
            numbers = read(path)[0]
        except (OSError, ImageDecodeError):
            continue
        assert numbers == list(range(len(numbers))) and len(numbers) < 200


@pytest.mark.parametrize(
    ("name", "start"), [("clip.ts", 188 * 25), ("clip.ts", 188 * 40), ("clip.mpg", 2048), ("clip.mpg", 3000)]
)
def test_a_recording_may_begin_within_a_frame(tmp_path, name, start):
    """What comes before the first keyframe is skipped, as players do."""
    data = write_video(tmp_path / name, 40).read_bytes()
    (tmp_path / name).write_bytes(data[start:])
    numbers, _, seen, fault = read(tmp_path / name)
    assert fault is None and 20 < len(numbers) < 40 and numbers == list(range(len(numbers)))
    assert seen == [(number + 40 - len(numbers)) % 27 for number in numbers]


def test_what_is_no_video(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"")
    with pytest.raises(ImageDecodeError, match="cannot be opened as a video: "):
        VideoReader(path)
    path.write_bytes(b"text " * 1000)
    with pytest.raises(ImageDecodeError, match="cannot be opened as a video: "):
        VideoReader(path)
    with pytest.raises(ImageDecodeError, match="it is cut off, with 500 of "):
        write_video(path)
        path.write_bytes(path.read_bytes()[:500])  # its index was at the end
        VideoReader(path)
    with pytest.raises(ImageDecodeError, match="it has no video stream"):
        VideoReader(write_sound(tmp_path / "sound.mp4"))
    with pytest.raises(OSError, match="not a regular file"):
        VideoReader(tmp_path)
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(OSError, match="not a regular file"):
        VideoReader(tmp_path / "pipe.mp4")


def test_a_single_frame(tmp_path):
    assert read(write_video(tmp_path / "clip.mp4", 1)) == ([0], [0], [0], None)


def test_no_frame(tmp_path):
    """A header of a video stream alone."""
    data = write_video(tmp_path / "clip.avi", 1).read_bytes()
    at = data.index(b"movi")
    (tmp_path / "clip.avi").write_bytes(data[: at + 4])
    numbers, _, _, fault = read(tmp_path / "clip.avi")
    assert numbers == [] and "no frame can be decoded: it is cut off" in str(fault)


@pytest.mark.parametrize("name", ["a:b.mp4", "concat:x|y.mp4", "%d.mp4", "ä ö.mp4", os.fsdecode(b"\xff.mp4")])
def test_names_that_look_like_protocols(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.rename(write_video(tmp_path / "clip.mp4", 2), name)
    assert read(Path(name))[0] == [0, 1]


def test_a_playlist_reads_no_network(tmp_path):
    (tmp_path / "clip.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n")
    with pytest.raises(ImageDecodeError):
        with VideoReader(tmp_path / "clip.mp4") as reader:
            for outcome in reader.frames():
                raise outcome


def test_without_pyav(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", 1)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"videos need PyAV: pip install 'mlc-ext\[video\]'"):
        VideoReader(path)
