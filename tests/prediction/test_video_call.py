"""load(...).video: the results of predict on the frames, one at a time."""

import sys
import types

import numpy as np
import pytest
from PIL import Image
from test_python_call import assert_close
from untrained import write_checkpoint
from videos import number_of, write_sound, write_video

from mlc_ext.detectors import Detections, FrameDetections, load
from mlc_ext.detectors.data.errors import ImageDecodeError
from mlc_ext.detectors.prediction.video_reader import VideoReader


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(write_checkpoint(tmp_path_factory.mktemp("call"), "fcos_minus_r50_mlc"), device="cpu")


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "clip.mp4", 7)


@pytest.mark.parametrize(("every", "batch_size"), [(1, None), (1, 2), (3, 5)])
def test_results_are_those_of_the_frames(model, clip, every, batch_size):
    with VideoReader(clip) as reader:
        images = [frame.image for frame in reader.frames()]
    found = list(model.video(str(clip), 0.2, every=every, batch_size=batch_size))
    assert [one.frame for one in found] == list(range(0, 7, every))
    for one in found:
        assert isinstance(one, FrameDetections) and isinstance(one, Detections) and len(one) > 5
        assert_close(one, model.predict(images[one.frame], 0.2))
        assert one.path == one.file == clip and one.time == one.frame / 25 and one.image_id == 10**9 + one.frame
        row = one.to_coco()[0]
        assert row["file_name"] == str(clip) and (row["frame"], row["time"]) == (one.frame, one.time)


def test_a_result_draws_its_frame(model, clip, tmp_path):
    *_, last = model.video(clip, 1.0)
    assert repr(last) == f"<Detections on {clip}, frame 6, time 0.24, 64 x 48: nothing>"
    last.save(tmp_path / "last.png")
    with Image.open(tmp_path / "last.png") as drawing:
        assert drawing.size == (64 * 8, 48 * 8) and number_of(np.asarray(drawing)[0, -1]) == 6


def test_frames_are_read_as_they_are_asked_for(model, clip, monkeypatch):
    read, pixels = [], VideoReader._pixels
    monkeypatch.setattr(VideoReader, "_pixels", lambda self, frame: read.append(1) or pixels(self, frame))
    results = model.video(clip)
    assert isinstance(results, types.GeneratorType) and not read
    for count, _ in enumerate(results, 1):
        assert len(read) == count
    assert count == 7


def test_a_fault_is_raised_after_the_frames_before(model, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", 12, container_options={"movflags": "faststart"})
    clip.write_bytes(clip.read_bytes()[:-300])
    found = []
    with pytest.raises(ImageDecodeError, match="clip.mp4: ends after .* it is cut off, with "):
        for one in model.video(clip, batch_size=4):
            found.append(one.frame)
    assert len(found) > 5 and found == list(range(len(found)))
    with pytest.raises(ImageDecodeError, match="sound.mp4: it has no video stream"):
        next(model.video(write_sound(tmp_path / "sound.mp4")))


def test_arguments(model, clip, tmp_path, monkeypatch):
    for arguments in ({"every": 0}, {"threshold": 2}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be "):
            model.video(clip, **arguments)
    with pytest.raises(FileNotFoundError, match="no video .*absent.mp4"):
        model.video(tmp_path / "absent.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"mlc-ext\[video\]"):
        model.video(clip)


def test_predict_names_the_method_for_videos(model, clip, tmp_path):
    with pytest.raises(
        ValueError, match=r"clip.mp4 is a video, not an image: iterate over model.video\('.*clip.mp4'\)"
    ):
        model.predict(str(clip))
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    message = r"clip.mp4 is a video, not an image: iterate over model.video\('.*clip.mp4'\)"
    with pytest.raises(ValueError, match=message):
        model.predict(str(clip))
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="is a video"):
        model.predict([tmp_path / "a.png", clip])
    assert [one.path for one in model.predict(tmp_path)] == [tmp_path / "a.png"]  # a folder stands for its images
    pages = [Image.new("RGB", (64, 48), (50 * k, 0, 0)) for k in range(3)]
    pages[0].save(tmp_path / "a.webp", save_all=True, append_images=pages[1:])
    assert len(model.predict(tmp_path / "a.webp", 0.0)) > 0
