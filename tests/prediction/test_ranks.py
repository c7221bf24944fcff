"""predict.py on two processes: each image once, the JSON of one process, one report."""

import json
import os

import pytest
from PIL import Image
from small_runs import finish, start
from untrained import write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    write_checkpoint(folder, "fcos_minus_r50_mlc")
    (folder / "photos").mkdir()
    for number in range(7):
        Image.new("RGB", (64, 48 + number % 2), (30 * number, 10, 200)).save(folder / "photos" / f"{number}.png")
    return folder


def run(folder, *arguments, ranks):
    options = ("--score-threshold", "0.2", "--device", "cpu")
    process = start(folder, "fcos_minus_r50_mlc.pt", *arguments, *options, ranks=ranks, program="predict.py")
    return finish(process)


@pytest.mark.parametrize("count", [1, 7])
def test_two_processes_write_what_one_writes(folder, count):
    inputs = [f"photos/{number}.png" for number in range(count)]
    for ranks in (1, 2):
        code, out, error = run(folder, *inputs, "--out", f"of{ranks}", ranks=ranks)
        assert code == 0, error
        assert out.count("\n") == 2 and out.count(f" on {count} of {count} images, ") == out.count("next: ") == 1
    one, two = (json.loads((folder / f"of{ranks}" / "predictions.json").read_text()) for ranks in (1, 2))
    assert len(one) == len(two) > count
    for mine, other in zip(one, two, strict=True):
        assert mine.keys() == other.keys() and mine["file_name"] == other["file_name"]
        assert mine["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
        assert mine["score"] == pytest.approx(other["score"], abs=1e-5)
    drawings = [sorted(os.listdir(folder / f"of{ranks}")) for ranks in (1, 2)]
    assert drawings[0] == drawings[1] and len(drawings[0]) == count + 1


def test_a_broken_image_of_another_rank_is_reported_once(folder):
    (folder / "broken").mkdir()
    Image.new("RGB", (64, 48)).save(folder / "broken" / "a.png")
    (folder / "broken" / "b.png").write_bytes(b"")  # the second rank's
    code, out, error = run(folder, "broken", "--out", "found", "--quiet", ranks=2)
    assert code == 1 and "on 1 of 2 images" in out and out.count("\n") == 1
    assert error.count("predict.py: broken/b.png: cannot be decoded: an empty file\n") == 1


def test_a_mistake_is_reported_once(folder):
    code, out, error = run(folder, "absent.png", ranks=2)
    assert code == 1 and out == ""  # torchrun's own code
    assert error.count("no image or folder absent.png") == 1


def test_videos_of_two_processes(folder):
    """Each video is predicted on by one of them; rows come in the order of the files."""
    videos = pytest.importorskip("videos")
    for number in range(3):
        videos.write_video(folder / f"{number}.mp4", 3 + number)
    inputs = ["0.mp4", "photos/1.png", "1.mp4", "photos/2.png", "2.mp4"]
    for ranks in (1, 2):
        code, out, error = run(folder, *inputs, "--out", f"videos_of{ranks}", ranks=ranks)
        assert code == 0, error
        assert out.count(" on 2 of 2 images and 12 frames of 3 of 3 videos, ") == out.count("next: ") == 1
    one, two = (json.loads((folder / f"videos_of{ranks}" / "predictions.json").read_text()) for ranks in (1, 2))
    assert len(one) == len(two) > 14
    for mine, other in zip(one, two, strict=True):
        assert all(mine[key] == other[key] for key in mine.keys() - {"bbox", "score"})
        assert mine["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
    for number in range(3):
        images = videos.read_video(folder / "videos_of2" / f"{number}.mp4")[1]
        assert [videos.number_of(image[0, -1]) for image in images] == list(range(3 + number))
