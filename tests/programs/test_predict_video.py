"""predict.py on videos: rows and drawings of the frames, and what remains when something ends it."""

import errno
import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest
from PIL import Image
from untrained import write_checkpoint
from videos import color, number_of, read_video, set_matrix, write_video

from mlc_ext.detectors.predict import main
from mlc_ext.detectors.prediction import video_reader
from mlc_ext.detectors.prediction.video_reader import VideoReader
from mlc_ext.detectors.prediction.video_writer import VideoWriter
from mlc_ext.detectors.runs import files


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), "fcos_minus_r50_mlc")


@pytest.fixture
def program(checkpoint, tmp_path, monkeypatch, capsys):
    """predict.py in tmp_path: arguments -> exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, threshold="0.3"):
        options = ("--quiet", "--device", "cpu", "--score-threshold", threshold)
        code = main([str(checkpoint), *map(str, arguments), *options])
        return code, *capsys.readouterr()

    return run


def rows(out="found"):
    with open(f"{out}/predictions.json") as file:
        return json.load(file)


def without(row, *keys):
    return {key: value for key, value in row.items() if key not in keys}


def drawn(path):
    """The frames whose background is seen in a drawing, at its top right corner."""
    return [number_of(image[0, -1]) for image in read_video(path)[1]]


@pytest.mark.parametrize("arguments", [[], ["--batch-size", "3"], ["--every", "2"], ["--every", "2", "--json"]])
def test_the_boxes_are_those_of_the_frames_as_images(program, tmp_path, arguments):
    path = write_video(tmp_path / "clip.mp4", 7)
    (tmp_path / "frames").mkdir()
    with VideoReader(path) as reader:
        for frame in reader.frames():
            Image.fromarray(frame.image.permute(1, 2, 0).numpy()).save(tmp_path / "frames" / f"{frame.number}.png")
    assert program("frames", "--out", "alone")[0] == 0
    code, out, error = program("clip.mp4", "--out", "found", *arguments)
    step = 2 if "--every" in arguments else 1
    expected = [row for row in rows("alone") if row["image_id"] % step == 0]
    numbers = sorted({row["image_id"] for row in expected})
    assert (code, error) == (0, "") and len(rows()) == len(expected) > 7 and numbers == list(range(0, 7, step))
    assert out.startswith(f"found/predictions.json: {len(expected)} boxes on {len(numbers)} frames of 1 of 1 videos, ")
    assert " frames/s" in out
    for row, alone in zip(rows(), expected, strict=True):
        frame = alone["image_id"]
        assert row["file_name"] == "clip.mp4" and row["image_id"] == 10**9 + frame
        assert row["frame"] == frame and row["time"] == frame / 25
        assert row["bbox"] == pytest.approx(alone["bbox"], abs=1e-3)
        assert row["score"] == pytest.approx(alone["score"], abs=1e-5)
        assert row["category_id"] == alone["category_id"]
        assert row.get("drawing_scale") == (None if "--json" in arguments else 8)
    assert sorted(os.listdir("found")) == ["predictions.json"] if "--json" in arguments else ["clip.mp4"]


def test_the_drawing_has_the_frames_at_their_times(program, tmp_path):
    times = [0, 2, 3, 10, 11, 30, 47, 80]
    write_video(tmp_path / "clip.mkv", 8, (50, 66), times=times)
    assert program("clip.mkv", "--out", "found", threshold="0.999")[0] == 0
    found, images = read_video("found/clip.mkv.mp4")
    assert [round(25 * float(time), 2) for time in found] == times and drawn("found/clip.mkv.mp4") == list(range(8))
    assert all(image.shape == (50 * 8, 66 * 8, 3) for image in images)
    assert program("clip.mkv", "--out", "third", "--every", "3", threshold="0.999")[0] == 0
    assert [round(25 * float(time), 2) for time in read_video("third/clip.mkv.mp4")[0]] == [0, 10, 47]
    assert drawn("third/clip.mkv.mp4") == [0, 3, 6]


def test_boxes_are_drawn(program, tmp_path):
    write_video(tmp_path / "clip.mp4", 3)
    program("clip.mp4", "--out", "found", threshold="0")
    program("clip.mp4", "--out", "plain", threshold="1")
    for image, plain in zip(read_video("found/clip.mp4")[1], read_video("plain/clip.mp4")[1], strict=True):
        assert (np.abs(image.astype(int) - plain) > 60).any(2).mean() > 0.02


def test_a_turned_video_is_drawn_upright(program, tmp_path):
    set_matrix(write_video(tmp_path / "clip.mp4", 3, (48, 64)), (0, 1, -1, 0))
    assert program("clip.mp4", "--out", "found", threshold="0")[0] == 0
    assert {image.shape for image in read_video("found/clip.mp4")[1]} == {(64 * 8, 48 * 8, 3)}
    assert max(row["bbox"][0] + row["bbox"][2] for row in rows()) <= 48 + 1e-3
    assert max(row["bbox"][1] + row["bbox"][3] for row in rows()) > 48


def test_images_and_videos_of_folders_and_patterns(program, tmp_path):
    """Animations are images of their first frame; the ids of images do not depend on videos."""
    folder = tmp_path / "media"
    folder.mkdir()
    write_video(folder / "b.avi", 2)
    write_video(folder / "d.MP4".lower(), 3)
    for name in ("7.png", "12.png"):
        Image.new("RGB", (64, 48), color(5)).save(folder / name)
    pages = [Image.new("RGB", (64, 48), color(k)) for k in range(3)]
    pages[0].save(folder / "30.gif", save_all=True, append_images=pages[1:])
    (folder / "notes.txt").write_text("")
    code, out, error = program("media", "--out", "found", threshold="0")
    assert (code, error) == (0, "") and " boxes on 3 of 3 images and 5 frames of 2 of 2 videos, " in out
    ids = {}
    for row in rows():
        ids.setdefault(os.path.basename(row["file_name"]), []).append(row["image_id"])
    assert {name: sorted(set(found)) for name, found in ids.items()} == {
        "7.png": [7], "12.png": [12], "30.gif": [30], "b.avi": [10**9, 10**9 + 1],
        "d.mp4": [2 * 10**9 + k for k in range(3)]}  # fmt: skip
    assert [row["file_name"] for row in rows()] == sorted(row["file_name"] for row in rows())
    names = ["12.png.png", "30.gif.png", "7.png.png", "b.avi.mp4", "d.mp4"]
    assert sorted(os.listdir("found/media")) == names
    assert program("media/*.mp4", "--out", "pattern", threshold="0")[0] == 0
    assert {row["file_name"] for row in rows("pattern")} == {"media/d.mp4"}


def test_large_numbers_of_images_give_way_to_those_of_frames(program, tmp_path):
    write_video(tmp_path / "clip.mp4", 1)
    Image.new("RGB", (64, 48)).save(tmp_path / "1000000000.png")
    assert program("1000000000.png", "clip.mp4", "--json", "--out", "found", threshold="0")[0] == 0
    assert {(row["file_name"], row["image_id"]) for row in rows()} == {("1000000000.png", 1), ("clip.mp4", 10**9)}


def test_a_file_that_is_cut_off_is_reported(program, tmp_path):
    path = write_video(tmp_path / "clip.mp4", 30, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-700])
    (tmp_path / "broken.mp4").write_bytes(b"text")
    write_video(tmp_path / "whole.mp4", 4)
    code, out, error = program("clip.mp4", "broken.mp4", "whole.mp4", "--out", "found", threshold="0")
    first, second = error.splitlines()
    assert code == 1 and first.startswith("predict.py: clip.mp4: ends after ") and "it is cut off, with" in first
    assert second.startswith("predict.py: broken.mp4: cannot be opened as a video: ")
    count = int(first.split()[4])
    assert count > 15 and f"on {count + 4} frames of 2 of 3 videos" in out
    assert drawn("found/clip.mp4") == [number % 27 for number in range(count)]
    frames = [row["frame"] for row in rows() if row["file_name"] == "clip.mp4"]
    assert sorted(set(frames)) == list(range(count)) and sorted(os.listdir("found")) == [
        "clip.mp4", "predictions.json", "whole.mp4"]  # fmt: skip


@pytest.mark.parametrize("at", ["detecting", "drawing", "ending"])
def test_ctrl_c_leaves_a_video_of_the_frames_so_far(program, tmp_path, monkeypatch, at):
    write_video(tmp_path / "clip.mp4", 9)
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    add, flush, time = VideoWriter.add, files._flush_folder, VideoReader._time

    def interrupt(now):
        if now:
            os.kill(os.getpid(), signal.SIGINT)

    def detecting(self, pts, number):
        interrupt(at == "detecting" and number == 4)
        return time(self, pts, number)

    def drawing(self, picture, seconds):
        interrupt(at == "drawing" and seconds > 0.13)
        add(self, picture, seconds)

    def ending(folder):
        interrupt(at == "ending" and not os.path.exists("found/predictions.json"))
        flush(folder)

    monkeypatch.setattr(VideoReader, "_time", detecting)
    monkeypatch.setattr(VideoWriter, "add", drawing)
    monkeypatch.setattr(files, "_flush_folder", ending)
    code, out, error = program("clip.mp4", "a.png", "--out", "found", threshold="0")
    count = 9 if at == "ending" else 4
    assert code == 130 and error == "predict.py: interrupted\n"
    assert f"on 1 of 1 images and {count} frames of 1 of 1 videos" in out
    assert drawn("found/clip.mp4") == list(range(count))
    assert sorted(os.listdir("found")) == ["a.png.png", "clip.mp4", "predictions.json"]
    assert sorted({row["frame"] for row in rows() if "frame" in row}) == list(range(count))


def test_a_full_disk_ends_it(program, tmp_path, monkeypatch):
    write_video(tmp_path / "clip.mp4", 5)
    write_video(tmp_path / "next.mp4", 5)
    add = VideoWriter.add

    def full(self, picture, time):
        if time > 0.1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._target))
        add(self, picture, time)

    monkeypatch.setattr(VideoWriter, "add", full)
    code, out, error = program("clip.mp4", "next.mp4", "--out", "found", threshold="0")
    assert (code, out) == (2, "") and error == "predict.py: [Errno 28] No space left on device: 'found/clip.mp4'\n"
    assert os.listdir("found") == ["predictions.json"] and {row["frame"] for row in rows()} == {0, 1, 2}


def test_a_drawing_that_cannot_be_written_fails_alone(program, tmp_path):
    for name in ("clip.mp4", "next.mp4"):
        write_video(tmp_path / name, 2)
    os.makedirs("found/clip.mp4")
    code, _, error = program("clip.mp4", "next.mp4", "--out", "found", threshold="0")
    assert code == 1 and error.startswith("predict.py: clip.mp4: its drawing is not written: ")
    assert error.count("\n") == 1 and drawn("found/next.mp4") == [0, 1]
    assert "next.mp4" in {row["file_name"] for row in rows()}


@pytest.mark.parametrize("arguments", [["clip.mp4", "--out", "."], ["sub/clip.mp4", "clip.mp4", "--out", "sub"]])
def test_a_drawing_never_replaces_a_video_that_is_given(program, tmp_path, arguments):
    (tmp_path / "sub").mkdir()
    for place in (tmp_path, tmp_path / "sub"):
        write_video(place / "clip.mp4", 2)
    before = (tmp_path / "clip.mp4").read_bytes()
    code, _, error = program(*arguments)
    assert code == 2 and "would replace" in error and "choose another --out" in error and error.count("\n") == 1
    assert (tmp_path / "clip.mp4").read_bytes() == (tmp_path / "sub" / "clip.mp4").read_bytes() == before
    assert program(*arguments, "--json")[0] == 0


def test_names_of_drawings_are_distinct(program, tmp_path):
    shutil.copy(write_video(tmp_path / "a.avi", 2), tmp_path / "a.avi.mp4")
    long = "n" * 251 + ".avi"
    shutil.copy(tmp_path / "a.avi", tmp_path / long)
    assert program("a.avi", "a.avi.mp4", long, "--out", "found")[0] == 0
    names = sorted(os.listdir("found"))
    assert names[:2] == ["a.avi.mp4", "a.avi_2.mp4"] and len(names) == 4 and all(len(name) <= 255 for name in names)


def test_without_pyav(program, tmp_path, monkeypatch):
    write_video(tmp_path / "clip.mp4", 2)
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "av", None)
    code, out, error = program("clip.mp4", "--out", "found")
    assert (code, out) == (2, "") and error.count("\n") == 1 and not os.path.exists("found")
    assert error.startswith("predict.py: videos need PyAV: pip install 'mlc-ext[video]'")
    code, out, error = program("clip.mp4", "a.png", "--out", "found")
    assert code == 1 and " on 1 of 1 images and 0 frames of 0 of 1 videos" in out
    assert error.startswith("predict.py: clip.mp4: videos need PyAV: pip install") and error.count("\n") == 1


@pytest.mark.parametrize("every", ["0", "-1"])
def test_every_is_positive(program, tmp_path, every):
    write_video(tmp_path / "clip.mp4", 1)
    code, _, error = program("clip.mp4", f"--every={every}")
    assert code == 2 and error == f"predict.py: --every must be at least 1, got {every}\n"


def test_few_frames_are_held(program, tmp_path, monkeypatch):
    """Frames are decoded as they are predicted on and drawn."""
    write_video(tmp_path / "clip.mp4", 60)
    read, added, most = [], [], []
    pixels, add = video_reader.VideoReader._pixels, VideoWriter.add
    monkeypatch.setattr(VideoReader, "_pixels", lambda self, frame: read.append(1) or pixels(self, frame))

    def spy(self, picture, time):
        added.append(1)
        most.append(len(read) - len(added))
        add(self, picture, time)

    monkeypatch.setattr(VideoWriter, "add", spy)
    assert program("clip.mp4", "--out", "found", "--batch-size", "2", threshold="0.999")[0] == 0
    assert len(added) == 60 and max(most) <= 8
