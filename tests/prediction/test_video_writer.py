"""Videos of drawings: pictures, times, sides and colors that were given, and nothing after an error."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest
from full_disks import full_disk
from PIL import Image
from videos import color, number_of, picture, read_video

from mlc_ext.detectors.prediction import video_writer
from mlc_ext.detectors.prediction.video_reader import VideoReader
from mlc_ext.detectors.prediction.video_writer import VideoWriter

ENCODERS = ["libx264", "mpeg4"]


@pytest.fixture(params=ENCODERS)
def encoder(request, monkeypatch):
    monkeypatch.setattr(video_writer, "_ENCODERS", {request.param: video_writer._ENCODERS[request.param]})
    return request.param


def write(target, times, size=(48, 64), time_base=Fraction(1, 1000), aspect=Fraction(1)):
    with VideoWriter(target, Fraction(25), time_base, aspect) as writer:
        for number, time in enumerate(times):
            writer.add(Image.fromarray(picture(number, size)), time)


@pytest.mark.parametrize("size", [(48, 64), (47, 64), (48, 63), (47, 63), (1, 1), (2, 1)])
def test_pictures_and_times(tmp_path, encoder, size):
    times = [0, 0.04, 0.055, 0.2, 0.9, 1.7]
    with VideoWriter(tmp_path / "made" / "clip.mp4", Fraction(25), Fraction(1, 1000), Fraction(1)) as writer:
        for number, time in enumerate(times):
            writer.add(Image.new("RGB", size[::-1], color(number)), time)
    found, pixels = read_video(tmp_path / "made" / "clip.mp4")
    assert [float(time) for time in found] == pytest.approx(times, abs=1e-4)
    height, width = size
    assert all(image.shape == (height + height % 2, width + width % 2, 3) for image in pixels)
    assert [number_of(image[-1, -1]) for image in pixels] == list(range(6))  # the added row and column too
    assert os.listdir(tmp_path / "made") == ["clip.mp4"]


def test_colors(tmp_path, encoder):
    """RGB as it was given, by the color space that the file is marked with."""
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 64, 200)]
    with VideoWriter(tmp_path / "clip.mp4", Fraction(25), Fraction(1, 25), Fraction(1)) as writer:
        for number, one in enumerate(colors):
            writer.add(Image.new("RGB", (64, 48), one), number / 25)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        frames = list(container.decode(video=0))
        assert container.streams.video[0].codec_context.name == ("h264" if encoder == "libx264" else "mpeg4")
    assert all(frame.format.name == "yuv420p" for frame in frames)
    assert {(frame.colorspace, frame.color_range) for frame in frames} == {(1, 1)}
    with VideoReader(tmp_path / "clip.mp4") as reader:  # by the mark: another matrix differs by 20
        found = [frame.image[:, 20, 20].tolist() for frame in reader.frames()]
    assert np.abs(np.array(found) - np.array(colors)).max() < 12


def test_times_that_do_not_grow(tmp_path):
    write(tmp_path / "clip.mp4", [0.5, 0.5, 0.2, 0.6, 0.6])
    found, pixels = read_video(tmp_path / "clip.mp4")
    assert [round(1000 * time) for time in found] == [500, 501, 502, 600, 601]
    assert [number_of(image[0, 0]) for image in pixels] == list(range(5))


@pytest.mark.parametrize("time_base", [Fraction(1, 25), Fraction(1001, 30000), Fraction(1, 90000), Fraction(1, 10**6)])
def test_units_of_time(tmp_path, encoder, time_base):
    step = Fraction(1001, 30000) if time_base.numerator > 1 else Fraction(1, 25)
    write(tmp_path / "clip.mp4", [float(number * step) for number in range(9)], time_base=time_base)
    found, _ = read_video(tmp_path / "clip.mp4")
    assert [float(time) for time in found] == pytest.approx([float(number * step) for number in range(9)], abs=2e-5)


def test_pixels_that_are_not_square(tmp_path):
    write(tmp_path / "clip.mp4", [0, 0.04], aspect=Fraction(4, 3))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_later_pictures_get_the_size_of_the_first(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", Fraction(25), Fraction(1, 25), Fraction(1)) as writer:
        for number, size in enumerate([(64, 48), (32, 80), (64, 48)]):
            writer.add(Image.new("RGB", size, color(number)), number / 25)
    _, pixels = read_video(tmp_path / "clip.mp4")
    assert [(image.shape, number_of(image[9, 9])) for image in pixels] == [((48, 64, 3), number) for number in range(3)]


def test_a_single_picture_is_shown_for_a_while(tmp_path):
    write(tmp_path / "clip.mp4", [0])
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].duration > 0 and len(list(container.decode(video=0))) == 1


def test_without_a_picture_there_is_no_file(tmp_path):
    write(tmp_path / "clip.mp4", [])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_error_leaves_the_older_file(tmp_path, when):
    (tmp_path / "clip.mp4").write_text("older")
    with pytest.raises(ZeroDivisionError):
        with VideoWriter(tmp_path / "clip.mp4", Fraction(25), Fraction(1, 25), Fraction(1)) as writer:
            for number in range(0 if when == "before" else 60):
                writer.add(Image.fromarray(picture(number, (48, 64))), number / 25)
            raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["clip.mp4"] and (tmp_path / "clip.mp4").read_text() == "older"


@pytest.mark.parametrize("count", [2, 90])
def test_a_full_disk_names_the_file(tmp_path, count):
    """Found while pictures are added, or at the end."""
    noise = np.random.default_rng(0).integers(0, 255, (count, 240, 320, 3), dtype=np.uint8)
    with full_disk(1000), pytest.raises(OSError, match=r"File too large: '.*clip.mp4'"):
        with VideoWriter(tmp_path / "clip.mp4", Fraction(25), Fraction(1, 25), Fraction(1)) as writer:
            for number, pixels in enumerate(noise):
                writer.add(Image.fromarray(pixels), number / 25)
    assert os.listdir(tmp_path) == []


def test_a_folder_in_its_place(tmp_path):
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(OSError, match="clip.mp4"):
        write(tmp_path / "clip.mp4", [0])
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_what_an_encoder_refuses_names_the_file(tmp_path):
    with pytest.raises(OSError, match="clip.mp4: "):
        with VideoWriter(tmp_path / "clip.mp4", Fraction(25), Fraction(1, 25), Fraction(1)) as writer:
            writer.add(Image.new("RGB", (40000, 2)), 0)
    assert os.listdir(tmp_path) == []
